"""Processes that the tests start, find and look for: ranks of a launch, disks of their own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

from tests.support.paths import ROOT

_SHOWN = 2000  # characters of the end of each log


def launch(processes: int, folder: Path, script: Path | str, *args: str, code: int = 0) -> str:
    """Run a script alone or under paddle.distributed.launch; returns what all ranks printed.

    A process that dies of a signal leaves the stacks of its threads in its log.
    """
    logs = folder / f"log{processes}"
    command = [sys.executable, str(script), *args]
    if processes > 1:
        launcher = ["-m", "paddle.distributed.launch", "--log_dir", str(logs)]
        command[1:1] = [*launcher, "--nproc_per_node", str(processes)]
    environment = {**os.environ, "ERNIE_VIL2_TEST": "1", "PYTHONFAULTHANDLER": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    shutil.rmtree(logs, ignore_errors=True)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    printed = {"launcher": done.stdout + done.stderr}
    printed.update({p.name: p.read_text() for p in sorted(logs.glob("workerlog.*"))})
    ends = "\n".join(f"-- {name}: {text[-_SHOWN:]}" for name, text in printed.items())
    assert done.returncode == code, f"exit code {done.returncode}\n{ends}"
    return "".join(printed.values())


def find_rank(rank: int, marker: str) -> int:
    """The process id of a rank whose command line has `marker`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
            environment = (process / "environ").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):  # ended, or another user's
            continue
        if marker in command and f"PADDLE_TRAINER_ID={rank}" in environment:
            return int(process.name)
    raise LookupError(f"no rank {rank} runs with {marker}")


def alive(pid: int | str) -> bool:
    """Whether a process runs; a zombie has ended and waits to be asked for its exit code."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def on_small_disk(disk: Path) -> list:
    """What to put before a command so that `disk` is 8 MiB of memory, copied to disk.after."""
    script = """
        mount -t tmpfs -o size=8m none "$0" || exit 77
        "$@"; code=$?
        cp -a "$0" "$0.after"; exit $code
    """
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(disk)]


def may_mount(folder: Path) -> bool:
    """Whether `on_small_disk` works here."""
    disk = folder / "trial"
    disk.mkdir()
    try:
        done = subprocess.run([*on_small_disk(disk), "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def forking(module: str, **environment: str) -> BaseContext:
    """A context whose processes are forked from a server that has imported `module`.

    Args:
        environment: of the server, beside ours; one thread each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest", module])  # the first prepares for paddle
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **environment)
    os.environ.pop("ERNIE_VIL2_CHOSE", None)  # one thread is our wish, not a choice to revise
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context
