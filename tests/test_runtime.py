import _ctypes
import json
import os
import shutil
import subprocess
import sys

import pytest

from ernie_vil2 import runtime
from tests.support.paths import ROOT

AMD = runtime._is_amd_with_avx2()
PRINT_CHOICES = """
import json, os, sys
from ernie_vil2 import runtime
lines = runtime.prepare()
again = runtime.prepare()
print(json.dumps([lines, again, dict(os.environ), "paddle" in sys.modules]))
"""


def fresh_process(code, **variables):
    """stdout and stderr of `code` run in a process where nothing of ours is set."""
    environment = {k: os.environ[k] for k in ("PATH", "HOME", "LD_LIBRARY_PATH") if k in os.environ}
    environment.update(variables, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def choices(**variables):
    lines, again, environment, paddle = json.loads(fresh_process(PRINT_CHOICES, **variables)[0])
    assert again == [], "a second call has nothing to do"
    assert not paddle, "prepare() must run before paddle is imported, so it may not import it"
    return lines, environment


def test_choices_are_made_and_told():
    lines, environment = choices()
    cores = runtime.usable_cores()
    assert environment["OMP_NUM_THREADS"] == str(cores)
    assert sum("OMP_NUM_THREADS" in line for line in lines) == 1
    assert (environment.get("MKL_DEBUG_CPU_TYPE") == "5") == AMD
    assert environment["KMP_INIT_AT_FORK"] == "TRUE"


def test_what_the_user_set_is_kept_and_not_told():
    own = {"OMP_NUM_THREADS": "7", "MKL_DEBUG_CPU_TYPE": "4", "MALLOC_TOP_PAD_": "4096"}
    lines, environment = choices(**own)
    assert {name: environment[name] for name in own} == own
    assert lines == []


def test_a_child_process_chooses_anew():
    _, parent = choices()
    inherited = {k: v for k, v in parent.items() if k.startswith(("OMP", "MKL", "ERNIE", "GLOG"))}
    _, child = choices(**inherited, PADDLE_LOCAL_SIZE="1000")
    assert child["OMP_NUM_THREADS"] == "1"


def test_cores_are_those_of_the_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" + PRINT_CHOICES
    environment = json.loads(fresh_process(code)[0])[2]
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc of the launcher")
@pytest.mark.parametrize(
    ("started_with", "expected"),
    [({}, str(max(1, runtime.usable_cores() // 2))), ({"OMP_NUM_THREADS": "5"}, "5")],
    ids=["not-set-by-user", "set-by-user"],
)
def test_threads_under_the_launcher(tmp_path, started_with, expected):
    """The real launcher puts OMP_NUM_THREADS=1 into every process, which is no user's choice."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom ernie_vil2 import runtime\nruntime.prepare()\n"
        "print('threads', os.environ['OMP_NUM_THREADS'])\n"
    )
    launch = f"""
import sys
from paddle.distributed.launch.main import launch
sys.argv = ["launch", "--nproc_per_node", "2", "--log_dir", {str(tmp_path / "log")!r}]
sys.argv.append({str(script)!r})
launch()
"""
    fresh_process(launch, **started_with)
    for rank in range(2):
        assert f"threads {expected}\n" in (tmp_path / "log" / f"workerlog.{rank}").read_text()


@pytest.mark.skipif(not runtime._prepare_malloc(), reason="not glibc, or MALLOC_* is set")
def test_freed_memory_stays_in_the_process():
    faults = """
import resource
import numpy as np
def faults():
    for _ in range(3):
        np.ones(16 << 20, np.float32)  # 64 MiB: glibc keeps less than 32 by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(16 << 20, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
from ernie_vil2 import runtime
runtime.prepare()
print(before, faults())
"""
    without, with_ours = map(int, fresh_process(faults)[0].split())
    assert with_ours < without / 10


def test_paddle_is_quiet_and_uses_the_threads():
    code = """
import sys
from ernie_vil2 import runtime
runtime.prepare(processes_on_host=1)
import paddle
print(type(sys.stderr).__name__)
print("after import", file=sys.stderr)
"""
    out, err = fresh_process(code)
    assert out == "TextIOWrapper\n"
    assert err == "after import\n"


def test_too_late_is_told():
    out, _ = fresh_process(
        "import paddle\nfrom ernie_vil2 import runtime\nprint(*runtime.prepare(), sep='\\n')"
    )
    assert "warning: paddle was imported before" in out


# What pip's CUDA 11 wheels hold, of which Paddle opens nine by names without a version.
PIPS = {
    "cublas": ["libcublas.so.11", "libcublasLt.so.11", "libnvblas.so.11"],
    "cuda_nvrtc": ["libnvrtc.so.11.2", "libnvrtc-builtins.so.11.8"],
    "cuda_runtime": ["libcudart.so.11.0"],
    "cudnn": ["libcudnn.so.8", "libcudnn_ops_infer.so.8"],
    "cufft": ["libcufft.so.10"],
    "curand": ["libcurand.so.10"],
    "cusolver": ["libcusolver.so.11"],
    "cusparse": ["libcusparse.so.11"],
    "nccl": ["libnccl.so.2"],
}
LOAD = "import ctypes, sys\nctypes.CDLL(sys.argv[1])\n"


@pytest.fixture
def site(tmp_path):
    """site-packages with a Paddle and pip's CUDA libraries, each a copy of a small, real one."""
    real = _ctypes.__file__
    (tmp_path / "paddle" / "libs").mkdir(parents=True)
    (tmp_path / "paddle" / "__init__.py").write_text("raise ImportError('too early')\n")
    for package, names in PIPS.items():
        folder = tmp_path / "nvidia" / package / "lib"
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(real, folder / name)
    return tmp_path


def linked(site, **variables):
    """What `prepare` said of the libraries in a fresh process that would find `site`'s Paddle."""
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from ernie_vil2 import runtime\nprint(*runtime.prepare(), sep='\\n')\n"
    )
    return fresh_process(code, **variables)[0]


def test_pips_libraries_are_put_where_paddle_looks(site):
    assert "CUDA libraries" in linked(site)
    libs = site / "paddle" / "libs"
    for name in runtime.CUDA_LIBRARIES:
        assert (libs / f"{name}.so").samefile(next(site.glob(f"nvidia/*/lib/{name}.so.*"))), name
        fresh_process(LOAD.replace("sys.argv[1]", repr(str(libs / f"{name}.so"))))
    # what they open themselves, they look for beside themselves
    assert (libs / "libcudnn_ops_infer.so.8").is_file() and (libs / "libcudart.so.11.0").is_file()
    assert not (libs / "libcudart.so").exists()
    assert "CUDA libraries" not in linked(site), "the second time there is nothing to do"


def test_a_link_that_leads_nowhere_is_made_anew_and_a_file_stays(site):
    libs = site / "paddle" / "libs"
    (libs / "libcudnn.so").symlink_to("../../nvidia/cudnn/lib/libcudnn.so.7")  # of an older wheel
    (libs / "libnccl.so").write_text("the user's own")
    linked(site)
    assert (libs / "libcudnn.so").resolve().name == "libcudnn.so.8"
    assert (libs / "libnccl.so").read_text() == "the user's own"


def test_nothing_is_linked_for_a_paddle_that_finds_them_itself(site):
    """Paddle 3 opens them by their versions, and CUDA 12's are not what 2.6 was built for."""
    cublas = site / "nvidia" / "cublas" / "lib" / "libcublas.so.11"
    cublas.rename(cublas.with_name("libcublas.so.12"))
    linked(site)
    assert list((site / "paddle" / "libs").iterdir()) == []


def test_an_environment_that_cannot_be_written_is_no_failure(site):
    libs = site / "paddle" / "libs"
    libs.rmdir()
    libs.write_text("")  # root may write into any folder, but not into a file
    assert "CUDA libraries" not in linked(site)
