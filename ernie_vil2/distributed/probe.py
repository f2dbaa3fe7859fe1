"""Whether the chosen device can work at all, found out before a model is built on it.

Paddle imports and sees a GPU also where its wheel has no code for that GPU, and where CUDA's
libraries are missing or of another version. The first kernel then fails, somewhere within a model
and with a page of C++, or the whole process is aborted. Here each of these is one line.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Callable

import paddle
import paddle.nn.functional as F

from ernie_vil2.distributed import ranks
from ernie_vil2.errors import UserError

# Counted in the device code of paddlepaddle-gpu 2.6.2 (libphi.so: 665 modules for each of these, 8
# for sm_90, 7 in PTX, which alone a newer GPU could compile). Paddle 3 says its own.
_CODE_OF_2_6 = [61, 70, 75, 80, 86]
# The libraries of which CUDA 12 and cuDNN 9 have other versions under the same name, as 2.6 needs
# them. Others, as libnccl.so.2, are of one version in both.
_VERSIONS_OF_2_6 = {"libcublas": 11, "libcublasLt": 11, "libcudnn": 8}
_CPU = "or use the CPU (Global.device=cpu; of a server, device cpu)"
_PAGE = "docs/gpu.md has the whole table"

_MISSING = re.compile(r"third-party dynamic library \((\S+?)\)|Cannot load (\w+) shared library")
_NO_CODE = re.compile(
    r"no kernel image|Unsupported GPU architecture|Mismatched GPU Architecture|ARCH_MISMATCH"
)
_OLD_DRIVER = re.compile(r"driver version is insufficient|cudaErrorInsufficientDriver")
_NO_MEMORY = re.compile(r"ResourceExhausted|[Oo]ut of memory|ALLOC_FAILED")


def check_gpu(index: int) -> None:
    """Compare the wheel with GPU `index` and its libraries, before anything runs on it.

    Raises:
        UserError: the wheel has no code for the GPU; LD_LIBRARY_PATH brings libraries of another
            CUDA; the driver lacks a library.
    """
    name = f"GPU {index} ({paddle.device.cuda.get_device_name(index)})"
    check_capability(name, paddle.device.cuda.get_device_capability(index))
    if _is_2_6():
        check_search_path(os.environ.get("LD_LIBRARY_PATH", ""))
        check_driver_library()


def code_of_wheel() -> list[int]:
    """For which GPUs the installed Paddle has code, as 86 for 8.6; [] where it does not tell."""
    if _is_2_6():
        return _CODE_OF_2_6
    return sorted(map(int, getattr(paddle.version, "cuda_archs", list)() or []))


def check_capability(name: str, capability: tuple[int, int], code: list[int] | None = None) -> None:
    """Refuse a GPU that the wheel has no code for.

    Args:
        name: of the GPU, for the message.
        capability: its compute capability, as (8, 6).
        code: what the wheel was built for, as 86; by default the installed one's.

    Raises:
        UserError: none of `code` is of the same generation and not newer, as CUDA demands.
    """
    code = code_of_wheel() if code is None else code
    major, minor = capability
    if not code or any(one // 10 == major and one % 10 <= minor for one in code):
        return
    has = ", ".join(f"{one // 10}.{one % 10}" for one in code)
    lock = "requirements-gpu-paddle3.txt" if major >= 9 else "requirements-gpu.txt"
    if major * 10 + minor < _CODE_OF_2_6[0]:
        way_out = f"no wheel of this project runs on it: use another GPU, {_CPU}"
    else:
        way_out = f"install {lock} ({_PAGE}), {_CPU}"
    raise UserError(
        f"{name} has compute capability {major}.{minor}, and the installed Paddle "
        f"{paddle.version.full_version} has code for {has} alone; {way_out}"
    )


def check_search_path(folders: str) -> None:
    """Refuse libraries of another CUDA that go before those that Paddle 2.6 needs.

    Args:
        folders: the value of LD_LIBRARY_PATH, which the loader searches first.

    Raises:
        UserError: a folder has, as libcublas.so, one of another version.
    """
    for folder in map(Path, filter(None, folders.split(":"))):
        for name, needed in _VERSIONS_OF_2_6.items():
            library = folder / f"{name}.so"
            version = re.search(r"\.so\.(\d+)", library.resolve().name)
            if library.exists() and version and int(version[1]) != needed:
                raise UserError(
                    f"LD_LIBRARY_PATH has {folder}, whose {name}.so is version {version[1]}, and "
                    f"Paddle {paddle.version.full_version} needs {needed}: take that folder out "
                    "(the environment brings its own), and start again"
                )


def check_driver_library() -> None:
    """Refuse a driver without `libcuda.so`, for which cuDNN 8 would abort the process.

    Raises:
        UserError: there is no such library, which WSL and some containers lack.
    """
    try:
        ctypes.CDLL("libcuda.so")
    except OSError as error:
        raise UserError(
            f"cuDNN 8 opens the driver's library as libcuda.so, and {error}: make that a link to "
            f"libcuda.so.1, in the same folder, and run ldconfig; {_CPU}"
        ) from error


def compute() -> None:
    """One matrix product and one convolution on the current device; no random state changes.

    Raises:
        UserError: one fails, or its result is wrong.
    """
    _attempt("a matrix product", _product)
    _attempt("a convolution", _convolution)


def communicate() -> None:
    """One all-reduce among all processes.

    Raises:
        UserError: it fails, or its result is wrong.
    """
    if ranks.world_size() > 1:
        _attempt(f"an all-reduce of {ranks.world_size()} processes", _all_reduce)


def explain(what: str, error: str) -> str:
    """One line for Paddle's `error` in `what`: the library or capability meant, and the remedy."""
    failed = f"{what} fails on {paddle.get_device()}: "
    if known := remedy(error):
        return failed + known
    lines = [line.strip() for line in error.splitlines() if line.strip(" -")]
    said = next((line for line in lines if line.startswith("(")), lines[-1] if lines else "")
    return f"{failed}{said[:300]}; NCCL_DEBUG=INFO and nvidia-smi may tell more; {_CPU}"


def remedy(error: str) -> str | None:
    """What an error of Paddle's on a GPU means and what helps, where that is known."""
    if missing := _MISSING.search(error):
        library = missing[1] or f"lib{missing[2]}.so"
        return (
            f"Paddle cannot load {library}; install requirements-gpu.txt, which brings it, "
            f"into this environment ({_PAGE}), {_CPU}"
        )
    if _NO_CODE.search(error):
        return f"Paddle has no code for its compute capability; {_PAGE}; {_CPU}"
    if _OLD_DRIVER.search(error):
        return f"the driver is too old for this Paddle; update it ({_PAGE}), {_CPU}"
    if _NO_MEMORY.search(error):
        return "it has no free memory; nvidia-smi shows who holds it"
    return None


def _is_2_6() -> bool:
    return paddle.is_compiled_with_cuda() and paddle.version.full_version.startswith("2.6.")


def _attempt(what: str, run: Callable[[], tuple[float, float]]) -> None:
    try:
        got, expected = run()
    except Exception as error:  # Paddle raises a dozen kinds
        raise UserError(explain(what, str(error))) from error
    if got != expected:
        raise UserError(
            f"{what} of ones gives {got} on {paddle.get_device()} and not {expected}: the device "
            f"computes wrong; look at its driver and at the system's log, {_CPU}"
        )


def _product() -> tuple[float, float]:
    ones = paddle.ones([16, 16], "float32")
    return float((ones @ ones).sum()), 16.0**3


def _convolution() -> tuple[float, float]:
    image, kernel = paddle.ones([1, 4, 8, 8], "float32"), paddle.ones([4, 4, 3, 3], "float32")
    return float(F.conv2d(image, kernel).sum()), 4 * 6 * 6 * 36.0  # [1, 4, 6, 6] of 4 * 3 * 3


def _all_reduce() -> tuple[float, float]:
    one = paddle.ones([1], "float32")
    ranks.all_reduce_(one)
    return float(one), float(ranks.world_size())
