"""Two runs never write to one folder."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.errors import UserError
from ernie_vil2.training.run_lock import RunLock
from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tests.support.told import error_line
from tests.support.training_runs import train
from tools import train as train_tool


@contextlib.contextmanager
def holder(output: Path, then: str = ""):
    """Another process that has the lock, and forks a child, as a run does its workers."""
    script = f"""
import os, sys, time
from pathlib import Path
from ernie_vil2.training.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
child = os.fork()
if child:
    {then or "pass"}
    print(child, flush=True)
    sys.stdin.read(1)
    lock.release()
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(output)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_second_run_is_refused_in_one_line_and_changes_nothing(tmp_path, capsys):
    config = write_run(tmp_path)
    out = train(config, "Global.max_steps=1")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    with holder(out) as other:
        before[out / ".lock"] = (out / ".lock").read_bytes()
        for resume in ([], ["--resume", "auto"]):
            assert cli.run(train_tool.main, ["-c", str(config), *resume]) == 2
            message = error_line(capsys.readouterr().err)
            assert message.startswith(f"error: {out} is in use by another run (process {other.pid}")
            assert "another Global.output_dir" in message
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    train(config, "Global.max_steps=2", resume="auto")


def test_kill_9_frees_it_although_workers_live_on(tmp_path):
    with holder(tmp_path) as other:
        with pytest.raises(UserError, match="in use"):
            RunLock(tmp_path).acquire()
        other.kill()
        other.wait()
        lock = RunLock(tmp_path)
        lock.acquire()
        lock.release()


def test_a_run_that_leaves_is_waited_for(tmp_path, logged):
    """As it saves its checkpoint, a restart is no mistake of the user's."""
    with holder(tmp_path, then="lock.leaving()") as other:
        with pytest.raises(UserError, match="in use"):
            RunLock(tmp_path, wait=0.3).acquire()
        logged.clear()
        os.write(other.stdin.fileno(), b"x")  # it leaves
        lock = RunLock(tmp_path, wait=60)
        lock.acquire()
        lock.release()
    assert len(logged.records) <= 1


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, logged):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert "cannot be locked" in logged.text
