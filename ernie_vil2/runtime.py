"""What must be set before paddle is imported, and only where the user has not set it.

Standard library only: importing this module costs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import warnings
from pathlib import Path

# Which variables this project chose itself: a child process may choose them anew.
_OURS = "ERNIE_VIL2_CHOSE"
_MALLOC_VARIABLES = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)
_OTHERS_NOISE = (
    "No ccache found",
    "Setuptools is replacing distutils",
    "Currently not a parallel execution environment",
)
# What Paddle 2.6's wheel for GPUs opens by these names, without a version.
CUDA_LIBRARIES = (
    "libcublas",
    "libcublasLt",
    "libcudnn",
    "libcufft",
    "libcurand",
    "libcusolver",
    "libcusparse",
    "libnccl",
    "libnvrtc",
)
_prepared = False

# In the environment of processes that shall leave GPUs alone, whatever they choose themselves. A
# label for each process that paddle.distributed.launch starts, which it hands out one by one, and
# CUDA sees none of them; gloo, since a wheel for GPUs would take NCCL.
WITHOUT_GPU = {
    "CUDA_VISIBLE_DEVICES": ",".join(["-1"] * 64),
    "PADDLE_DISTRI_BACKEND": "gloo",
}


def prepare(processes_on_host: int | None = None) -> list[str]:
    """Choose BLAS kernels, threads and how malloc keeps memory.

    Values that the user has set are kept. A second call in one process does nothing.

    Args:
        processes_on_host: how many share the cores; by default `launched_here()`.

    Returns:
        A line for the log for each choice.
    """
    global _prepared
    if _prepared:
        return []
    _prepared = True
    for message in _OTHERS_NOISE:
        warnings.filterwarnings("ignore", message=message)

    lines = _prepare_malloc() + link_cuda_libraries()
    if "paddle" in sys.modules:
        late = "warning: paddle was imported before ernie_vil2.runtime.prepare(): its BLAS kernels"
        return [*lines, f"{late} and threads stay as they are, which can be several times slower"]
    ours = set(os.environ.get(_OURS, "").split(","))

    def choose(name: str, value: object) -> bool:
        if name in os.environ and name not in ours:
            return False
        os.environ[name] = str(value)
        ours.add(name)
        return True

    # MKL picks its slowest kernels on processors that are not Intel's.
    if _is_amd_with_avx2() and choose("MKL_DEBUG_CPU_TYPE", 5):
        lines.append("MKL_DEBUG_CPU_TYPE=5: fast matrix products on AMD processors")

    processes = processes_on_host or launched_here()
    cores = usable_cores()
    threads = max(1, cores // processes)
    if _set_by_launcher("OMP_NUM_THREADS"):
        ours.add("OMP_NUM_THREADS")
    if choose("OMP_NUM_THREADS", threads):
        lines.append(f"OMP_NUM_THREADS={threads}: {cores} usable cores, {processes} process(es)")
        if threads > 1:
            sys.stderr = _WithoutThreadWarning(sys.stderr)
    choose("GLOG_minloglevel", 2)  # paddle's C++ side: errors only
    # paddle's OpenMP would else wait in a forked child for threads that the child has not
    choose("KMP_INIT_AT_FORK", "TRUE")
    os.environ[_OURS] = ",".join(sorted(filter(None, ours)))
    return lines


def launched_here() -> int:
    """How many processes of the job run here: what `paddle.distributed.launch` says, else 1."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", 1))


def link_cuda_libraries() -> list[str]:
    """Put pip's CUDA 11 libraries where Paddle 2.6's wheel for GPUs looks for them.

    pip's wheels hold `libcublas.so.11` in folders that no loader searches, and the driver brings
    none. Paddle's libphi.so opens `libcublas.so`, which by its RUNPATH the loader looks for beside
    it. So a link there is found by every process of this environment, with nothing set before it
    starts; by rule of the loader, the folders of LD_LIBRARY_PATH still go first. A library looks
    for what it opens itself beside the link to it: so they all get one by their own name too.

    Returns:
        A line for the log where links were made.
    """
    paddle = importlib.util.find_spec("paddle")  # without importing it
    if paddle is None or not paddle.origin:
        return []
    libs = Path(paddle.origin).parent / "libs"
    pips = libs.parent.parent / "nvidia"
    if not (pips / "cublas/lib/libcublas.so.11").exists():  # a Paddle for CPUs, or Paddle 3
        return []
    if all((libs / f"{name}.so").exists() for name in CUDA_LIBRARIES):
        return []
    # not a failure here: another process may be faster, or the environment may not be ours to write
    with contextlib.suppress(OSError):
        for library in sorted(pips.glob("*/lib/lib*.so.*")):
            stem = library.name.partition(".")[0]
            names = {library.name, f"{stem}.so" if stem in CUDA_LIBRARIES else library.name}
            for link in (libs / name for name in names):
                if not link.exists():
                    with contextlib.suppress(FileNotFoundError, FileExistsError):
                        if link.is_symlink():  # leads nowhere
                            link.unlink()
                        link.symlink_to(os.path.relpath(library, libs))
        return ["CUDA libraries: linked into paddle/libs, where Paddle looks for them"]
    return []


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by a container's CPU quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    try:  # cgroup v2, then v1; microseconds per period, "max" or -1 without a limit
        try:
            quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        except OSError:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        if int(quota) > 0:
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def _is_amd_with_avx2() -> bool:
    """Whether MKL's AVX2 kernels (type 5) run here and would not be picked by MKL itself."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return ("AuthenticAMD" in info or "HygonGenuine" in info) and " avx2 " in info


def _set_by_launcher(name: str) -> bool:
    """Whether `paddle.distributed.launch` put `name` into our environment, not its user.

    Importing paddle writes OMP_NUM_THREADS=1 where there was none, so every process that the
    launcher starts has it; the launcher's own environment, as it was started, tells.
    """
    if "PADDLE_LOCAL_SIZE" not in os.environ:
        return False
    try:
        environment = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return os.environ.get(name) == "1"
    return f"\0{name}=".encode() not in b"\0" + environment


def _prepare_malloc() -> list[str]:
    """Keep freed tensors in the process: glibc gives large blocks back to the system, and each
    operation would pay for page faults again."""
    if not sys.platform.startswith("linux") or any(v in os.environ for v in _MALLOC_VARIABLES):
        return []
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has no mallopt
        return []
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # parameter numbers of <malloc.h>
    # mallopt takes C ints. No blocks by mmap: older glibc ignores a threshold above 32 MiB; -1:
    # never trim; the heap grows by 256 MiB at a time, of which only what is used takes memory.
    for parameter, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 256 << 20)):
        if not libc.mallopt(parameter, value):
            return []
    return ["malloc keeps freed memory: no page faults for every new tensor"]


class _WithoutThreadWarning:
    """`sys.stderr` less paddle's two lines against OMP_NUM_THREADS > 1, which this build needs.

    Takes itself out of the way with the second line.
    """

    def __init__(self, stream):
        self._stream = stream
        self._at_warning = False

    def write(self, text: str) -> int:
        last = text.startswith("PLEASE USE OMP_NUM_THREADS WISELY")
        if last and sys.stderr is self:
            sys.stderr = self._stream
        if last or text.startswith("WARNING: OMP_NUM_THREADS set to"):
            self._at_warning = True
        elif self._at_warning and text == "\n":
            self._at_warning = False
        else:
            return self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
