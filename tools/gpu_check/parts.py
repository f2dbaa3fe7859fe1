"""The parts, each in a process of its own with a limit of time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ernie_vil2 import runtime
from tools.gpu_check.part import reason
from tools.gpu_check.rows import Row, Setting, failed

ROOT = Path(__file__).resolve().parents[2]
_MARK = "ERNIE_VIL2_GPU_CHECK"  # in the environment of all that a part starts
_LOOK = 0.1  # seconds between looks at a part
_LOOKS = 100  # at what is left of it; what a driver holds cannot be killed


class Part(NamedTuple):
    """A module with CHECKS.

    Attributes:
        seconds: that it may take.
        tf32: whether float32 products may be TensorFloat-32, as they are by default.
        package: of the module of that name.
    """

    name: str
    seconds: float
    tf32: bool = False
    package: str = "tools.gpu_check"


# In the order of the table. Together they take less than 15 minutes, whatever hangs.
PARTS = [
    Part("environment", 60),
    Part("kernels", 60),
    Part("precision", 120, tf32=True),
    Part("exactness", 130),
    Part("recompute", 50),
    Part("resume", 80),
    Part("evaluation", 70, tf32=True),
    Part("faults", 100, tf32=True),
    Part("inference", 100, tf32=True),
    Part("figures", 120, tf32=True),
]
ON_GPU_MARK = ("kernels", "precision", "recompute", "inference")  # what pytest -m gpu holds


def run(
    part: Part, setting: Setting, environment: Mapping[str, str], slack: float = 1.0
) -> Iterator[Row]:
    """The rows of a part as it finds them.

    A part that hangs is ended with all that it started, and a row fails that says so; so does one
    where it dies.

    Args:
        environment: of the caller; what hides GPUs, or TensorFloat-32, is added.
        slack: a factor of the part's seconds.
    """
    folder = setting.path
    rows, log = folder / "rows.jsonl", folder / "log.txt"
    rows.unlink(missing_ok=True)
    mark = secrets.token_hex(8)
    child = {**environment, **_additions(part, setting), _MARK: mark}
    command = [sys.executable, "-m", "tools.gpu_check.part", f"{part.package}.{part.name}"]
    command += [json.dumps(setting._asdict()), str(rows)]
    start, seen = time.monotonic(), 0
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=child, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        late = False
        while not late:
            ended = process.poll() is not None
            found = _read(rows)
            yield from found[seen:]
            seen = len(found)
            if ended:
                break
            late = time.monotonic() - start > part.seconds * slack
            time.sleep(_LOOK)
    finally:
        _end(mark)
        process.wait()
    seconds = round(time.monotonic() - start, 2)
    if late:
        why = f"no end after {part.seconds * slack:g} s, it was ended: {log}"
        yield failed(f"{part.name}: all checks end", why)._replace(seconds=seconds)
    elif process.returncode:
        said = reason(log.read_text(errors="replace"))
        why = f"it ended with {_code(process.returncode)}: {said}; {log}"
        yield failed(f"{part.name}: all checks end", why)._replace(seconds=seconds)
    elif not seen:
        yield failed(f"{part.name}: all checks end", f"no row was found: {log}")


def _additions(part: Part, setting: Setting) -> dict[str, str]:
    added = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}", "PYTHONFAULTHANDLER": "1"}
    if not setting.on_gpu:
        return {**added, **runtime.WITHOUT_GPU}
    # read by cuBLAS and cuDNN themselves, and stronger than what a program sets
    return added if part.tf32 else {**added, "NVIDIA_TF32_OVERRIDE": "0"}


def _read(path: Path) -> list[Row]:
    """The rows that stand whole in the file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return [Row(**json.loads(line)) for line in whole.splitlines()]


def _end(mark: str) -> None:
    """Kill whatever has `mark` in its environment; the launcher's processes have own sessions."""
    sought = f"{_MARK}={mark}".encode()
    for _ in range(_LOOKS):  # one may just have been started
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended, or is another user's
                if sought in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK)


def _code(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
