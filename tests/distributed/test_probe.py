"""What a device that cannot work is refused with: one line, before a model is built."""

import ctypes
import os
import random
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle.base import core

from ernie_vil2 import cli, distributed
from ernie_vil2.distributed import probe, start
from ernie_vil2.errors import UserError
from tests.support.paths import ROOT

WHEEL = [61, 70, 75, 80, 86]
# What Paddle has said, word for word: the first two the wheel for GPUs on this CPU, without CUDA's
# libraries; the others its users' reports.
SAID = {
    "libnccl.so": (
        "(PreconditionNotMet) The third-party dynamic library (libnccl.so) that Paddle depends on "
        "is not configured correctly. (error code is libnccl.so: cannot open shared object file: "
        "No such file or directory)\n  Suggestions:\n  1. Check if the third-party dynamic library "
        "(e.g. CUDA, CUDNN) is installed correctly and its version is matched with paddlepaddle "
        "you installed.\n  2. Configure third-party dynamic library environment variables as "
        "follows:\n  - Linux: set LD_LIBRARY_PATH by `export LD_LIBRARY_PATH=...`\n  - Windows: "
        "set PATH by `set PATH=XXX; (at /paddle/paddle/phi/backends/dynload/dynamic_loader.cc:312)"
    ),
    "libcublas.so": (
        "(PreconditionNotMet) The third-party dynamic library (libcublas.so) that Paddle depends "
        "on is not configured correctly. (error code is libcublas.so: cannot open shared object "
        "file: No such file or directory)\n  Suggestions:\n"
    ),
    "libcudnn.so": (
        "(PreconditionNotMet) Cannot load cudnn shared library. Cannot invoke method "
        "cudnnGetVersion.\n  [Hint: cudnn_dso_handle should not be null.] (at /paddle/paddle/phi/"
        "backends/dynload/cudnn.cc:64)\n"
    ),
    "no code for its compute capability": (
        "(External) CUDA error(209), no kernel image is available for execution on the device."
    ),
    "the driver is too old": (
        "(External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime version."
        "\n  [Hint: 'cudaErrorInsufficientDriver'. This indicates that the installed NVIDIA CUDA "
        "driver is older than the CUDA runtime library.]"
    ),
    "(External) NCCL error(1)": (
        "\n\n--------------------------------------\nC++ Traceback (most recent call last):\n"
        "--------------------------------------\n0   paddle::distributed::ProcessGroupNCCL\n\n"
        "----------------------\nError Message Summary:\n----------------------\n"
        "(External) NCCL error(1), unhandled cuda error.\n  [Hint: ...] (at nccl.cc:1)\n"
    ),
}


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (7, 2), (7, 5), (8, 0), (8, 6), (8, 9)])
def test_gpus_that_the_wheel_has_code_for(capability):
    probe.check_capability("GPU 0", capability, WHEEL)


@pytest.mark.parametrize(
    ("capability", "remedy"),
    [
        ((5, 2), "no wheel of this project"),
        ((6, 0), "no wheel of this project"),
        ((9, 0), "requirements-gpu-paddle3.txt"),
        ((10, 0), "requirements-gpu-paddle3.txt"),
        ((12, 0), "requirements-gpu-paddle3.txt"),
    ],
)
def test_a_gpu_without_code_is_one_line(capability, remedy):
    with pytest.raises(UserError, match=r"Global\.device=cpu") as refusal:
        probe.check_capability("GPU 3 (its name)", capability, WHEEL)
    message = str(refusal.value)
    assert "\n" not in message and remedy in message
    assert message.startswith(f"GPU 3 (its name) has compute capability {capability[0]}.")
    assert "6.1, 7.0, 7.5, 8.0, 8.6" in message


def test_code_of_a_newer_wheel():
    """Three digits are 12.0; a wheel that does not tell refuses nothing."""
    newer = [75, 80, 86, 89, 90, 100, 120]
    for capability in [(8, 9), (9, 0), (10, 0), (10, 3), (12, 1)]:
        probe.check_capability("GPU 0", capability, newer)
    with pytest.raises(UserError, match=r"requirements-gpu\.txt"):
        probe.check_capability("GPU 0", (7, 0), newer)
    probe.check_capability("GPU 0", (9, 0), [])


def test_nothing_is_known_of_a_wheel_for_cpus():
    if not paddle.is_compiled_with_cuda():
        assert probe.code_of_wheel() == []


def library(folder, name, version):
    (folder / f"{name}.so.{version}").write_text("")
    (folder / f"{name}.so").symlink_to(f"{name}.so.{version}")


def test_libraries_of_another_cuda_go_first(tmp_path):
    other, right, neither = (tmp_path / name for name in ("cuda-12", "cuda-11", "neither"))
    for folder in (other, right, neither):
        folder.mkdir()
    library(other, "libcublas", "12.4.5.8")
    library(right, "libcublas", "11.11.3.6")
    library(right, "libcudnn", "8.9.6")
    (neither / "libcublas.so").write_text("a file without a version")
    probe.check_search_path("")
    probe.check_search_path(f"{right}::{neither}:{tmp_path}/nowhere")
    with pytest.raises(UserError, match=f"{other}, whose libcublas.so is version 12, .* needs 11"):
        probe.check_search_path(f"{right}:{other}")


def test_a_driver_without_libcuda_is_one_line(monkeypatch):
    def none(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", none)
    with pytest.raises(UserError, match=r"libcuda\.so: cannot open .* a link to libcuda\.so\.1"):
        probe.check_driver_library()


@pytest.mark.parametrize("named", SAID)
def test_paddles_page_becomes_a_line(named):
    line = probe.explain("a convolution", SAID[named])
    assert "\n" not in line and named in line and "Global.device=cpu" in line
    assert line.startswith(f"a convolution fails on {paddle.get_device()}: ")


def test_what_fails_is_a_mistake_with_exit_code_2(monkeypatch, capsys):
    def fail():
        raise RuntimeError(SAID["libcublas.so"])

    monkeypatch.setattr(probe, "_product", fail)
    assert cli.run(lambda argv: probe.compute(), []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a matrix product fails on ") and "libcublas.so" in line


def test_a_wrong_result_is_found(monkeypatch):
    monkeypatch.setattr(probe, "_convolution", lambda: (5183.0, 5184.0))
    with pytest.raises(UserError, match=r"gives 5183\.0 .* not 5184\.0"):
        probe.compute()


def test_a_device_that_works_passes_and_no_random_state_changes():
    def drawn():
        return paddle.rand([4]).numpy().tolist(), np.random.rand(), random.random()

    def seed():
        paddle.seed(5), np.random.seed(5), random.seed(5)

    seed()
    expected = drawn()
    seed()
    probe.compute()
    probe.communicate()  # alone it has nothing to do
    assert drawn() == expected


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as `init` would see it, and what is done with it in order."""
    done = []
    cuda = paddle.device.cuda
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(core, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr(cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(paddle, "set_device", done.append)
    monkeypatch.setattr(probe, "compute", lambda: done.append("compute"))
    monkeypatch.setattr(probe, "code_of_wheel", lambda: WHEEL)
    monkeypatch.setattr(probe, "_is_2_6", lambda: False)
    monkeypatch.delenv("PADDLE_DISTRI_BACKEND", raising=False)
    return done


def test_nothing_runs_on_a_gpu_without_code(gpu):
    with pytest.raises(UserError, match=r"GPU 0 \(NVIDIA H100\) has compute capability 9\.0"):
        distributed.init("gpu")
    assert gpu == []


def test_a_gpu_is_tried_when_it_is_chosen(gpu, monkeypatch):
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr(start, "_started", True)
    distributed.init("auto")
    assert gpu == ["gpu:0", "compute"]
    distributed.init("cpu")
    assert gpu[2:] == ["cpu"], "the CPU is not tried"
    assert "PADDLE_DISTRI_BACKEND" not in os.environ, "alone: a child may take its GPU"


LOADERS = """
import ctypes, importlib.util, pathlib
from ernie_vil2 import runtime
runtime.prepare()
paddle = pathlib.Path(importlib.util.find_spec("paddle").origin).parent
phi = ctypes.CDLL(str(paddle / "libs/libphi.so"))
for name in "Cublas CublasLt CUDNN CUFFT Curand Cusolver Cusparse NCCL NVRTC".split():
    load = phi[f"_ZN3phi7dynload{len(name) + 12}Get{name}DsoHandleEv"]  # aborts where it is missing
    load.restype = ctypes.c_void_p
    print(name, bool(load()))
"""


@pytest.mark.skipif(not probe._is_2_6(), reason="not Paddle 2.6's wheel for GPUs")
def test_paddles_own_loader_finds_every_library():
    """No GPU is needed: only requirements-gpu.txt."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    out = subprocess.check_output(
        [sys.executable, "-c", LOADERS], env=environment, cwd=ROOT, text=True
    )
    assert out.split()[1::2] == ["True"] * 9, out
