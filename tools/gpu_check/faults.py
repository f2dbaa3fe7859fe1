"""Does a run survive a process that is stopped, and one that is killed?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import launcher_of

from tests.support.processes import alive, find_rank
from tools.gpu_check import runs
from tools.gpu_check.part import reason
from tools.gpu_check.parts import ROOT
from tools.gpu_check.rows import Row, Setting, at_most, holds, not_run

_HANG = 8  # seconds without a step after which the watchdog ends the run
_LEAVE = 60.0  # seconds for the launcher to end the others; gloo itself waits for 30
_START = 240.0  # seconds until a run's next checkpoint, on a slow CPU
_FURTHER = 4  # steps of the last start


class Run:
    """A launch of `tools/train.py` that goes on from the newest checkpoint of the run's folder."""

    def __init__(self, setting: Setting, config: Path, name: str, max_steps: int):
        self.config, self.log = config, config.parent / f"{name}.txt"
        self.checkpoints = config.parent / "out" / "checkpoints"
        logs = config.parent / f"logs-{name}"
        launcher, variables = launcher_of(setting.processes, logs, setting.gpus)
        command = [sys.executable, *launcher, str(ROOT / "tools" / "train.py"), "-c", str(config)]
        command += ["--resume", "auto", "-o", f"Global.max_steps={max_steps}"]
        child = {**os.environ, **variables}
        child.pop("OMP_NUM_THREADS", None)
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(command, env=child, stdout=output, stderr=output)

    def newest(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        return max((int(x.name[5:]) for x in self.checkpoints.glob("step_*")), default=0)

    def wait_for_checkpoint(self) -> None:
        """Until there is a newer one than now."""
        before, deadline = self.newest(), time.monotonic() + _START
        while self.newest() == before:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no checkpoint: {reason(self.log.read_text(errors='replace'))}")
            time.sleep(0.05)

    def signal_last(self, number: int, rank: int) -> int:
        """Send a rank a signal; its process id."""
        pid = find_rank(rank, str(self.config))
        os.kill(pid, number)
        return pid

    def seconds_to_end(self, limit: float) -> float:
        """Until the launcher ends; infinite beyond the limit."""
        start = time.monotonic()
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            return float("inf")
        return time.monotonic() - start


def stopped_and_killed(setting: Setting) -> Iterator[Row]:
    """SIGSTOP, then SIGKILL, to the last process of a run; then it goes on to its end."""
    config = runs.write(
        setting,
        "run",
        Global={"epochs": 1_000_000, "eval_interval": 0, "save_interval": 2},
        Distributed={"hang_timeout": _HANG},
    )
    last = setting.processes - 1
    if last == 0:
        yield not_run("a stopped process", "needs 2 GPUs: no other would see it")
    for name, number in (("stopped", signal.SIGSTOP), ("killed", signal.SIGKILL)):
        if last == 0 and name == "stopped":
            continue
        run = Run(setting, config, name, 1_000_000)
        run.wait_for_checkpoint()
        pid = run.signal_last(number, last)
        limit = _LEAVE + (_HANG if name == "stopped" else 0)
        seconds = run.seconds_to_end(limit)
        failed = run.process.returncode not in (None, 0)
        yield at_most(f"a {name} process: seconds until all end", seconds, limit)
        gone = failed and not alive(pid)
        told = f"code {run.process.returncode}"
        yield holds(f"a {name} process: the job fails, and it is gone", gone, told, "not 0")
    reached = run.newest()
    run = Run(setting, config, "finished", reached + _FURTHER)
    seconds = run.seconds_to_end(_START)
    code = run.process.returncode
    said = "" if code == 0 else reason(run.log.read_text(errors="replace"))
    yield holds("--resume auto: ends", code == 0, f"code {code}", "0", said)
    yield holds(
        "--resume auto: reaches its last step",
        run.newest() == reached + _FURTHER,
        run.newest(),
        str(reached + _FURTHER),
        f"from step {reached}, {seconds:.0f} s",
    )


CHECKS = {"faults": stopped_and_killed}
