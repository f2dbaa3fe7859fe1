"""TensorRT under Paddle Inference: what it needs, and engines that are built once and kept.

An engine is built when its program is loaded, for the shapes that the exporter collected
(`export/tensorrt.py`), and never while requests wait. Read from Paddle's sources, and tried with
its GPU wheel on a CPU as far as that goes without TensorRT; nothing here ever ran on a GPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable
from ernie_vil2.files.user_cache import user_cache
from ernie_vil2.serving import gpu

_PRECISIONS = ("fp32", "fp16")
_WORKSPACE = 1 << 30  # bytes that TensorRT may use while it builds and runs
_LEAST_OPERATORS = 3  # fewer in a row stay with Paddle
_WHOLE = "whole"  # beside an engine that was written to its end


@dataclass(frozen=True)
class Engine:
    """What TensorRT needs for one tower.

    Attributes:
        shapes: the file that the exporter collected.
        folder: where this very engine is kept: of this program, precision, GPU and TensorRT.
    """

    shapes: Path
    folder: Path


def check(device: str, precision: str) -> None:
    """Whether this Paddle can use TensorRT, and finds it.

    Raises:
        UserError: on a CPU, in a precision that it lacks, with a Paddle without it, or without its
            library.
    """
    from paddle import inference

    if not device.startswith("gpu"):
        raise UserError(f"TensorRT on {device}: expected device gpu, or leave it off")
    if precision not in _PRECISIONS:
        raise UserError(f"TensorRT in {precision}: expected fp32 or fp16, or leave it off")
    built = inference.get_trt_compile_version()
    if built == (0, 0, 0):
        raise UserError("TensorRT: this Paddle was built without it; leave it off")
    version = ".".join(map(str, built))
    try:
        found = inference.get_trt_runtime_version()
    except RuntimeError:
        raise UserError(
            f"TensorRT: libnvinfer.so is not found, which this Paddle needs of TensorRT {version}: "
            "get that version from NVIDIA (it is not on PyPI), and put the folder that has a file "
            "of that very name on LD_LIBRARY_PATH; or leave it off"
        ) from None
    if found[:2] != built[:2]:
        raise UserError(
            f"TensorRT: libnvinfer.so is of {'.'.join(map(str, found))}, this Paddle was built for "
            f"{version}: get that version from NVIDIA, or leave it off"
        )


def most_tokens(artefact: Artefact, batch_size: int) -> int:
    """The most tokens of a text that the engines take.

    Raises:
        UserError: no shapes in the artefact, or none of such a batch.
    """
    artefact.shapes("text")
    most = artefact.tensorrt["max_batch"]
    if batch_size > most:
        raise UserError(
            f"batches of {batch_size} with TensorRT: {artefact.folder} has shapes of up to {most}; "
            f"take smaller ones, or export with --tensorrt {batch_size}"
        )
    return artefact.tensorrt["max_len"]


def engine(
    artefact: Artefact, tower: str, precision: str, device: str, cache: str | os.PathLike | None
) -> Engine:
    """A tower's engine on one of this machine's GPUs.

    Args:
        cache: the folder of all engines; None: `~/.cache/ernie_vil2/tensorrt`.

    Raises:
        UserError: no shapes in the artefact, no such GPU.
    """
    import paddle
    from paddle import inference

    card = paddle.device.cuda.get_device_properties(gpu.number(device))
    version = inference.get_trt_runtime_version()
    runs_on = [paddle.__version__, version, card.name, card.major, card.minor]
    folder = Path(cache) if cache else user_cache() / "tensorrt"
    return Engine(artefact.shapes(tower), folder / name(artefact, tower, precision, runs_on))


def name(artefact: Artefact, tower: str, precision: str, runs_on: list) -> str:
    """Of an engine: another one for whatever it depends on.

    Paddle's own name knows the program's inputs and outputs alone, and would load the engine of
    other weights or of another GPU.

    Args:
        runs_on: what the machine has.
    """
    digests = []
    for path in (*artefact.program(tower, precision), artefact.shapes(tower)):
        key = path.relative_to(artefact.folder).as_posix()
        digests.append(artefact.files.get(key) or durable.sha256(path))
    content = json.dumps([digests, precision, runs_on, _WORKSPACE, _LEAST_OPERATORS])
    return f"{tower}-{precision}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def configure(config: Any, precision: str, engine: Engine) -> None:
    """Let a `paddle.inference.Config` that is for a GPU use TensorRT."""
    from paddle import inference

    config.enable_tensorrt_engine(
        workspace_size=_WORKSPACE,
        max_batch_size=1,  # of static shapes only
        min_subgraph_size=_LEAST_OPERATORS,
        precision_mode=getattr(inference.PrecisionType, gpu.PRECISIONS[precision]),
        use_static=True,  # write the engine, and read it the next time
        use_calib_mode=False,
    )
    # False: outside of the shapes is an error, not a build of minutes while requests wait
    config.enable_tuned_tensorrt_dynamic_shape(str(engine.shapes), False)
    config.set_optim_cache_dir(str(engine.folder))


@contextmanager
def kept(engine: Engine | None) -> Iterator[None]:
    """Inside, a program is loaded: its engine is read, or built and written, by one process alone.

    What a process that was killed left half-written is thrown away.

    Raises:
        UserError: a folder that cannot be written.
    """
    if engine is None:
        yield
        return
    try:
        engine.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{engine.folder} cannot keep TensorRT's engine ({error.strerror}): name another "
            "folder, with --tensorrt-cache"
        ) from None
    with engine.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = engine.folder / _WHOLE
        if not whole.exists():
            for path in engine.folder.iterdir():
                path.unlink()
        yield
        whole.touch()
