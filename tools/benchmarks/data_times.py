"""The times of `bench.py data`: of pipelines in turns, of our stages, of what is handed over."""

from __future__ import annotations

import contextlib
import mmap
import random
import time
from collections.abc import Callable, Iterator
from statistics import median

import cv2
import numpy as np
import paddle
from benchmarks import data_peers
from benchmarks.common import ROOT

from ernie_vil2.config.load import load_config
from ernie_vil2.data import turbo
from ernie_vil2.data.decode import EncodedImage, decode_image
from ernie_vil2.data.normalise import Normalise
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.data.transforms import (
    MEAN,
    STD,
    eval_planes,
    normalisation_table,
    planes,
    resize,
    size_by_short,
)

VIEWS = data_peers.VIEWS
_WAYS = ("float32, normalised by the worker", "uint8, normalised on the device")
_OURS = "this project"


def _transform(options):
    sizes = [f"{key}={options.size}" for key in ("Transform.size", "Arch.Image.img_size")]
    return TrainTransform(**load_config(ROOT / "configs/base.yaml", sizes).Transform)


# -- Pipelines -------------------------------------------------------------------------------------


def peers(options, pictures) -> list[dict]:
    transform = _transform(options)

    def ours(data, rng):
        return transform.views(data, VIEWS, rng)

    def ours_by_pillow(data, rng):
        with _without_turbo():
            return transform.views(data, VIEWS, rng)

    official = "official, once for each view"
    pipelines: dict[str, Callable] = {
        "floor: the JPEG decoded once, nothing else": lambda data, rng: decode_image(data),
        _OURS: ours,
        f"{_OURS}, JPEGs by Pillow": ours_by_pillow,
        "OpenCV, step by step": data_peers.by_opencv,
        "Pillow": data_peers.by_pillow,
        "paddle.vision.transforms": data_peers.PaddleVision(),
        official: data_peers.Official(),
    }
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    turns = np.random.default_rng(0)
    for round_ in range(options.repeats + 1):
        # by turns, so that a busy machine is so for all; all pictures at a time, as a worker does
        for name in turns.permutation(list(pipelines)):
            for number, picture in enumerate(pictures):
                seed = 1000 * round_ + number
                random.seed(seed)  # paddle's colours draw from these two
                np.random.seed(seed)
                rng = np.random.default_rng(seed)
                taken = _taken(lambda: pipelines[name](picture, rng))  # noqa: B023
                if round_:  # the first warms up
                    times[name].append(taken * 1000)
    rows = [
        {"name": n, "median": median(t), "mean": sum(t) / len(t), "ratio": None}
        for n, t in times.items()
    ]
    for row in rows:
        row["ratio"] = rows[-1]["mean"] / row["mean"]
    return rows


@contextlib.contextmanager
def _without_turbo() -> Iterator[None]:
    decoder, turbo._decoder = turbo._decoder, lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        turbo._decoder = decoder


# -- Stages ----------------------------------------------------------------------------------------


def stages(options, pictures) -> list[dict]:
    transform = _transform(options)
    times: dict[str, list[float]] = {}

    def stage(name: str, action: Callable):
        start = time.thread_time()
        result = action()
        times.setdefault(name, []).append((time.thread_time() - start) * 1000)
        return result

    def pair(picture: bytes, rng) -> np.ndarray:
        encoded = stage("header", lambda: EncodedImage(picture))
        shape = encoded.shape
        drawn = stage("draws", lambda: [transform.draw(*shape, rng) for _ in range(VIEWS)])
        image = stage("decode", encoded.decode)
        image = stage("resize, once", lambda: resize(image, *size_by_short(*shape, options.size)))
        cuts = stage("crop, flip", lambda: [transform.cut(image, view) for view in drawn])
        coloured = stage(
            "colour, greyscale, blur", lambda: [transform.colour(*x) for x in zip(cuts, drawn)]
        )
        views = stage("to [3, H, W]", lambda: [planes(view) for view in coloured])
        return stage("collate", lambda: np.stack(views))

    for round_ in range(options.repeats + 1):
        if round_ == 1:
            times.clear()  # the first warms up
        for number, picture in enumerate(pictures):
            pair(picture, np.random.default_rng(1000 * round_ + number))
    rows = [{"name": n, "median": median(t), "mean": sum(t) / len(t)} for n, t in times.items()]
    total = sum(row["mean"] for row in rows)
    return [{**row, "share": row["mean"] / total} for row in rows]


def evaluation(options, pictures) -> list[dict]:
    transform = eval_planes(options.size)
    width, height = options.picture
    large = data_peers.photographs(4 * width, 4 * height, (90,))
    rows = []
    for files in (pictures, large):
        size = f"{width} x {height} px"
        times = []
        for round_ in range(options.repeats + 1):
            found = [_taken(lambda: transform(file)) * 1000 for file in files]  # noqa: B023
            times += found if round_ else []
        rows.append({"name": size, "median": median(times), "mean": sum(times) / len(times)})
        width, height = 4 * width, 4 * height
    return rows


# -- Handing over ----------------------------------------------------------------------------------


def handed_over(options, pictures) -> list[dict]:
    transform, normalise = _transform(options), Normalise()
    rng = np.random.default_rng(0)
    memory = mmap.mmap(-1, options.batch * VIEWS * 3 * options.size**2 * 4)

    def decode() -> list:
        files = (pictures[number % len(pictures)] for number in range(options.batch))
        return [view for file in files for view in transform.views(file, VIEWS, rng)]

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
            row[key] = min(row[key]) / options.batch * 1000
    return rows


def _normalised(view):
    """uint8 [3, H, W] -> float32, as a worker did it before: OpenCV's table, plane by plane."""
    result = np.empty(view.shape, np.float32)
    for plane, values, target in zip(view, normalisation_table(MEAN, STD), result):
        cv2.LUT(plane, values, target)
    return result


def _taken(action: Callable) -> float:
    start = time.thread_time()
    action()
    return time.thread_time() - start


def _timed(action: Callable, times: list[float]):
    start = time.process_time()
    result = action()
    times.append(time.process_time() - start)
    return result
