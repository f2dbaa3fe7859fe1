"""Training runs that die at chosen moments, forked from a server that has imported all they need.

So an attempt costs a second instead of an import of paddle. The server runs no tensor operation
and no thread of ours, so what it forks is as a fresh process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

import paddle
import visualdl  # noqa: F401  # what a run imports later

from ernie_vil2 import cli
from ernie_vil2.checkpoints import store
from ernie_vil2.checkpoints import writer as checkpoint_writer
from ernie_vil2.training.ema import EMA
from ernie_vil2.training.runlog import RunLog
from ernie_vil2.training.trainer import Trainer
from tests.support.processes import forking
from tools import train

# Where a run may die: before each of these calls, on whatever thread.
POINTS = [
    *((os, n) for n in ("fsync", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")),
    *((Trainer, n) for n in ("step", "report", "save", "evaluate", "restore")),
    (checkpoint_writer, "_write_tensors"),
    (RunLog, "scalars"),
    (EMA, "update"),
    (paddle.optimizer.AdamW, "step"),
]
# What it is doing there: the innermost of these functions that it is in, else "between".
PHASES = {
    function.__code__: phase
    for function, phase in (
        (checkpoint_writer.CheckpointWriter._write, "writing"),
        (store.publish, "publishing"),
        (checkpoint_writer.CheckpointWriter._settle, "rotating"),
        (store.amend, "amending"),
        (Trainer.__init__, "starting"),
        (Trainer.step, "stepping"),
        (Trainer.evaluate, "evaluating"),
    )
}


@dataclass
class Kill:
    """SIGKILL before the `number`th call of a phase on a rank, or some time after its first step.

    group: the worker processes die with it; else they are left to themselves.
    grace: seconds that the other rank lives on.
    """

    rank: int = 0
    phase: str | None = None
    number: int = 1
    seconds: float = 0.0
    group: bool = True
    grace: float = 0.0


@dataclass
class Ended:
    """What became of an attempt.

    code: exit code, -9 if killed; of the rank that ended first.
    phase: in which it was killed.
    seconds: since the first step.
    calls: rank -> phase -> calls, of a run that came to its end.
    records: step -> its global batches, each the records' numbers in order.
    log: what all ranks printed.
    """

    code: int
    phase: str | None
    seconds: float
    calls: list[Counter]
    records: dict[int, list]
    log: str


class Runs:
    """Runs tools/train.py again and again, with `environment`; logs and notes go to `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None):
        self.folder, self.count, self.environment = folder, 0, environment or {}
        # a killed run's semaphores are for the server's tracker to remove, which it tells of
        self.context = forking(__name__, PYTHONWARNINGS="ignore:resource_tracker")

    def __call__(self, output: Path, argv: list, processes=1, kill: Kill | None = None) -> Ended:
        """One attempt at the run that writes to `output`."""
        self.count += 1
        folder = self.folder / f"attempt{self.count:03d}"
        folder.mkdir(parents=True)
        argv = [*map(str, argv), "-o", f"Global.output_dir={output}"]
        ranks = [
            self.context.Process(
                target=_run, args=(argv, rank, {**self.environment, **own}, kill, folder)
            )
            for rank, own in enumerate(_environments(processes))
        ]
        try:
            for process in ranks:
                process.start()
            phase = self._kill_by_the_clock(ranks, kill, folder, output) if kill else None
            code = self._wait(ranks, kill, folder)
        finally:
            for process in ranks:
                _kill(process, group=True)
        started = folder / "started"  # absent where no step was left to do
        if (folder / "killed").exists():
            phase = (folder / "killed").read_text()
        return Ended(
            code,
            phase if code == -signal.SIGKILL else None,
            time.time() - started.stat().st_mtime if started.exists() else 0.0,
            [Counter(json.loads(p.read_text())) for p in sorted(folder.glob("calls*.json"))],
            _read_records(folder, processes),
            "".join(path.read_text() for path in sorted(folder.glob("*.log"))),
        )

    def _kill_by_the_clock(self, ranks: list, kill: Kill, folder: Path, output: Path):
        if kill.phase:
            return None
        while not (folder / "started").exists() and ranks[kill.rank].is_alive():
            time.sleep(0.01)
        time.sleep(kill.seconds)
        _kill(ranks[kill.rank], kill.group)
        seen = {path.name.split("-")[0] for path in output.glob("checkpoints/.*")}
        found = [name[1:] for name in (".writing", ".deleting") if name in seen]
        return f"by the clock, {found[0] if found else 'between'}"

    def _wait(self, ranks: list, kill: Kill | None, folder: Path) -> int:
        running, code = ranks, 0
        while running and not code:
            ended = connection.wait([process.sentinel for process in running], timeout=120)
            assert ended, f"a run hangs: {folder}"
            code = min(process.exitcode for process in running if process.sentinel in ended)
            running = [process for process in running if process.sentinel not in ended]
        if code and kill:  # the killed one's sockets close, and end the other, before it is gone
            killed = ranks[kill.rank]
            killed.join(10)
            code = killed.exitcode if killed.exitcode == -signal.SIGKILL else code
        for process in running:
            process.join(kill.grace if kill else 20)
            _kill(process, group=True)
            process.join(120)
            assert process.exitcode is not None, f"a rank does not end: {folder}"
        return code


def _kill(process, group: bool) -> None:
    if not process.is_alive():
        return
    with contextlib.suppress(ProcessLookupError):  # it ends just now, or leads no group yet
        if group:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _environments(processes: int) -> list[dict]:
    """What paddle.distributed.launch tells its processes."""
    if processes == 1:
        return [{}]
    master, *endpoints = (f"127.0.0.1:{port}" for port in _free_ports(processes + 1))
    return [
        {
            "PADDLE_MASTER": master,
            "PADDLE_GLOBAL_SIZE": str(processes),
            "PADDLE_LOCAL_SIZE": str(processes),
            "PADDLE_GLOBAL_RANK": str(rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_NNODES": "1",
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(processes),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        for rank in range(processes)
    ]


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to others, so that they are still free a moment later."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10000, 30000)
        with contextlib.suppress(OSError), socket.socket() as attempt:
            attempt.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def _read_records(folder: Path, processes: int) -> dict[int, list]:
    files = [folder / f"records{rank}.jsonl" for rank in range(processes)]
    if not all(file.exists() for file in files):
        return {}
    ranks = [dict(map(json.loads, file.read_text().splitlines())) for file in files]
    return {
        step: [list(itertools.chain(*shares)) for shares in zip(*(rank[step] for rank in ranks))]
        for step in ranks[0]
        if all(step in rank for rank in ranks)  # the kill may have come between
    }


# -- In the forked process -------------------------------------------------------------------------


def _run(argv: list, rank: int, environment: dict, kill: Kill | None, folder: Path) -> None:
    os.setsid()
    os.environ.update(environment)
    with open(folder / f"rank{rank}.log", "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    calls = _watch_points(kill if kill and kill.rank == rank else None, folder)
    _note_records(folder / f"records{rank}.jsonl", folder / "started")
    code = cli.run(train.main, argv)
    (folder / f"calls{rank}.json").write_text(json.dumps(calls))
    sys.exit(code)


def _watch_points(kill: Kill | None, folder: Path) -> Counter:
    calls: Counter = Counter()
    process, lock = os.getpid(), threading.Lock()

    def passing():
        if os.getpid() != process:  # a worker, which inherits this
            return
        with lock:
            phase = _phase()
            calls[phase] += 1
            if kill and (kill.phase, kill.number) == (phase, calls[phase]):
                (folder / "killed").write_text(phase)
                if kill.group:
                    os.killpg(0, signal.SIGKILL)
                os.kill(process, signal.SIGKILL)

    def wrap(function):
        @functools.wraps(function)
        def wrapped(*arguments, **named):
            passing()
            return function(*arguments, **named)

        return wrapped

    for owner, name in POINTS:
        setattr(owner, name, wrap(getattr(owner, name)))
    return calls


def _phase() -> str:
    frame = sys._getframe()
    while frame is not None:
        if phase := PHASES.get(frame.f_code):
            return phase
        frame = frame.f_back
    return "between"


def _note_records(path: Path, started: Path) -> None:
    """Write down which records each step gets."""
    take_step = Trainer.step

    def noting(self, batches):
        indices = [[int(i) for micro in batch for i in micro["index"]] for batch in batches]
        with open(path, "a") as file:
            file.write(json.dumps([self.progress.step + 1, indices]) + "\n")
        if not started.exists():
            started.touch()
        return take_step(self, batches)

    Trainer.step = noting
