"""`bench.py data`: what a pair's pixels cost, handed over as float32 and as uint8."""

from __future__ import annotations

import argparse
import mmap
import time
from collections.abc import Callable

from ernie_vil2 import cli

ABOUT = """What the two image views of a pair cost until they lie normalised on the device: CPU time
of a worker process and of the trainer, and bytes, by what the worker hands over."""
QUICK = {"size": 32, "batch": 4, "repeats": 1}
_WAYS = ("float32, normalised by the worker", "uint8, normalised on the device")
_VIEWS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument("--size", type=cli.positive, default=224, help="pixels of a side (224)")
    parser.add_argument("--batch", type=cli.positive, default=32, help="pairs (32)")
    parser.add_argument(
        "--picture",
        type=cli.positive,
        nargs=2,
        default=[500, 375],
        metavar=("WIDTH", "HEIGHT"),
        help="pixels of the JPEG that is read (500 375)",
    )
    parser.add_argument("--repeats", type=cli.positive, default=7, help="of each timing (7)")


def check(options) -> None:
    """All sizes make sense."""


def run(report, options) -> None:
    """One table: a row for each way."""

    def kilobytes(value: float) -> str:
        return f"{value / 1000:,.0f} kB"

    def milliseconds(value: float) -> str:
        return f"{value * 1000:.2f} ms"

    report.table(
        "pixels",
        "Pixels of a pair",
        {
            "way": ("handed over", str),
            "bytes": ("through shared memory and to the device", kilobytes),
            "decode": ("worker: decode, augment", milliseconds),
            "hand_over": ("worker: normalise, stack, hand over", milliseconds),
            "take": ("trainer: copy, normalise", milliseconds),
        },
        _measure(options),
        f"Two views of {options.size} px of a JPEG of {options.picture[0]} x "
        f"{options.picture[1]} px. CPU time of one process, least of {options.repeats} alternating "
        f"repetitions over {options.batch} pairs. The device is the CPU.",
    )


def _measure(options) -> list[dict]:
    import numpy as np
    import paddle
    from benchmarks.common import ROOT

    from ernie_vil2.config.load import load_config
    from ernie_vil2.data.decode import decode_image
    from ernie_vil2.data.loader import one_thread
    from ernie_vil2.data.normalise import Normalise
    from ernie_vil2.data.train_transform import TrainTransform

    paddle.set_device("cpu")
    one_thread(0)  # as in a worker
    sizes = [f"{key}={options.size}" for key in ("Transform.size", "Arch.Image.img_size")]
    settings = load_config(ROOT / "configs/base.yaml", sizes)
    transform, normalise = TrainTransform(**settings.Transform), Normalise()
    picture, rng = _picture(*options.picture), np.random.default_rng(0)
    memory = mmap.mmap(-1, options.batch * _VIEWS * 3 * options.size**2 * 4)

    def decode() -> list:
        images = (decode_image(picture) for _ in range(options.batch))
        return [transform(image, rng) for image in images for _ in range(_VIEWS)]

    def shared(views: list) -> np.ndarray:
        stacked = np.stack(views)
        place = np.frombuffer(memory, stacked.dtype, stacked.size).reshape(stacked.shape)
        place[...] = stacked
        return place

    def as_float(views: list) -> np.ndarray:
        return shared([_normalised(view) for view in views])

    rows = [{"way": way, "decode": [], "hand_over": [], "take": []} for way in _WAYS]
    for _ in range(options.repeats):
        for row, hand_over in zip(rows, (as_float, shared)):
            views = _timed(decode, row["decode"])
            pixels = _timed(lambda: hand_over(views), row["hand_over"])  # noqa: B023
            _timed(lambda: normalise(paddle.to_tensor(pixels)), row["take"])  # noqa: B023
            row["bytes"] = pixels.nbytes / options.batch
    for row in rows:
        for key in ("decode", "hand_over", "take"):
            row[key] = min(row[key]) / options.batch
    return rows


def _normalised(view):
    """uint8 [3, H, W] -> float32, as a worker did it before: OpenCV's table, plane by plane."""
    import cv2
    import numpy as np

    from ernie_vil2.data.transforms import MEAN, STD, normalisation_table

    result = np.empty(view.shape, np.float32)
    for plane, values, target in zip(view, normalisation_table(MEAN, STD), result):
        cv2.LUT(plane, values, target)
    return result


def _picture(width: int, height: int) -> bytes:
    """A JPEG with as much detail as photographs have, about 2 bits a pixel."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 2))[1].tobytes()


def _timed(action: Callable, times: list[float]):
    start = time.process_time()
    result = action()
    times.append(time.process_time() - start)
    return result
