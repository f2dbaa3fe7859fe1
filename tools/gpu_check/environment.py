"""Is the machine as the wheel needs it? Driver, card, libraries, and one operation of each kind."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from benchmarks.common import environment, launch, relative_error

from ernie_vil2 import distributed, runtime
from ernie_vil2.distributed import probe
from ernie_vil2.errors import UserError
from tools.gpu_check import cards
from tools.gpu_check.rows import Row, Setting, at_most, failed, figure, holds

# CUDA of the wheel -> the least driver, from the table of minor-version compatibility in CUDA's
# release notes.
_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
_EXACT = 1e-5  # float32 sums of some hundred products against float64


def versions(setting: Setting) -> Iterator[Row]:
    told = environment()
    if paddle.is_compiled_with_cuda():
        told.update(CUDA=paddle.version.cuda(), cuDNN=paddle.version.cudnn())
    text = ", ".join(f"{name} {value}" for name, value in told.items())
    yield figure("versions", paddle.__version__, text)


def driver(setting: Setting) -> Iterator[Row]:
    setting.need_gpu()
    least = _DRIVERS.get(int(paddle.version.cuda().split(".")[0]), (0, 0))
    found = (cards.asked("driver_version") or ["0.0"])[0]
    numbers = tuple(int(part) for part in found.split(".")[:2])
    yield holds("driver", numbers >= least, found, f">= {least[0]}.{least[1]}")


def capability(setting: Setting) -> Iterator[Row]:
    """The wheel has code for each card."""
    setting.need_gpu()
    code = ", ".join(map(str, probe.code_of_wheel())) or "not told"
    for number, label in enumerate(setting.gpus):
        found = tuple(paddle.device.cuda.get_device_capability(number))
        name = paddle.device.cuda.get_device_name(number)
        problem = ""
        try:
            probe.check_gpu(number)
        except UserError as error:
            problem = str(error)
        title = f"capability of GPU {label}"
        yield holds(title, not problem, str(found), "has code", problem or f"{name}; code: {code}")


def libraries(setting: Setting) -> Iterator[Row]:
    """Those that Paddle 2.6 opens load, from where it looks first."""
    setting.need_gpu()
    if paddle.__version__ >= "3":
        yield figure("CUDA libraries", "-", "Paddle 3 brings and finds its own")
        return
    linked = Path(paddle.__file__).parent / "libs"
    lacking = []
    for name in runtime.CUDA_LIBRARIES:
        beside = linked / f"{name}.so"
        try:
            ctypes.CDLL(str(beside) if beside.exists() else f"{name}.so")
        except OSError as error:
            lacking.append(str(error).partition(":")[0])
    count = len(runtime.CUDA_LIBRARIES)
    found = f"{count - len(lacking)} of {count}"
    yield holds("CUDA libraries", not lacking, found, "all", ", ".join(lacking))


def links(setting: Setting) -> Iterator[Row]:
    setting.need_gpu()
    try:
        said = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True).stdout
    except OSError:
        said = ""
    found = sorted({word for word in said.split() if word.startswith("NV") and word[2:].isdigit()})
    yield figure("NVLink", ", ".join(found) or "none", "of nvidia-smi topo -m")


def products(setting: Setting) -> Iterator[Row]:
    """One matrix product and one convolution of the device, against NumPy's in float64."""
    distributed.init(setting.device)  # which tries the device too
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=[64, 64]).astype("float32") for _ in range(2))
    found = paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(b)).numpy()
    expected = a.astype("float64") @ b.astype("float64")
    yield at_most("matrix product against float64", relative_error(found, expected), _EXACT)
    image = rng.normal(size=[2, 3, 8, 8]).astype("float32")
    kernel = rng.normal(size=[5, 3, 4, 4]).astype("float32")
    tensors = (paddle.to_tensor(x) for x in (image, kernel))
    found = paddle.nn.functional.conv2d(*tensors, stride=4).numpy()
    patches = image.astype("float64").reshape(2, 3, 2, 4, 2, 4)
    expected = np.einsum("bchywx,ocyx->bohw", patches, kernel.astype("float64"))
    yield at_most("convolution against float64", relative_error(found, expected), _EXACT)


def collectives(setting: Setting) -> Iterator[Row]:
    """An all-reduce, and a reduce-scatter against it, over all processes."""
    setting.need_processes()
    output = setting.path / "collectives.json"
    logs = setting.path / "logs"
    where = ("tools.gpu_check.environment", "speak")
    launch(
        setting.processes, logs, *where, gpus=setting.gpus, device=setting.device,
        output=str(output),
    )  # fmt: skip
    if not output.exists():
        yield failed("all-reduce", "the processes ended and found nothing")
        return
    found = json.loads(output.read_text())
    yield figure("backend", found["backend"])
    yield at_most("all-reduce of ranks", found["sum"], 0.0)
    yield at_most("reduce-scatter against all-reduce and slice", found["scatter"], 1e-6)


# -- in the processes ------------------------------------------------------------------------------


def speak(device: str, output: str) -> None:
    """Write how far all-reduce and reduce-scatter are from what they should give."""
    distributed.init(device)
    world, rank = distributed.world_size(), distributed.rank()
    total = paddle.full([4], rank + 1.0)
    distributed.all_reduce_(total)
    expected = world * (world + 1) / 2
    rng = np.random.default_rng(rank)
    own = paddle.to_tensor(rng.normal(size=[world * 8, 16]).astype("float32"))
    scattered = distributed.reduce_scatter(own)
    summed = own.clone()
    distributed.all_reduce_(summed)
    share = summed[rank * 8 : (rank + 1) * 8].numpy()
    errors = {
        "sum": float((total - expected).abs().max()),
        "scatter": relative_error(scattered.numpy(), share),
    }
    everyone = distributed.all_gather_objects(errors)
    if distributed.is_main():
        worst = {name: max(each[name] for each in everyone) for name in errors}
        backend = "NCCL" if distributed.on_gpu() else "gloo"
        Path(output).write_text(json.dumps({**worst, "backend": backend}))
    distributed.leave(0)


CHECKS = {
    "versions": versions,
    "driver": driver,
    "capability": capability,
    "CUDA libraries": libraries,
    "NVLink": links,
    "matrix product, convolution": products,
    "collectives": collectives,
}
