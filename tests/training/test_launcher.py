"""A launcher's processes do not outlive it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.training.run_lock import RunLock
from tests.support.paths import ROOT
from tests.support.processes import alive, find_rank
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train

RANK = """
import signal, sys, time
from ernie_vil2.training import launcher
launcher.LEAVE_WITHIN = float(sys.argv[1])
launcher._LOOK = 0.05
signal.signal(signal.SIGTERM, lambda *_: print("asked to leave", flush=True))
launcher.when_dead(lambda: print("told", flush=True))
launcher.watch()
launcher.watch()
print("begins", flush=True)
time.sleep(0.3)
time.sleep(60)
"""
LAUNCHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
time.sleep(60)
"""


def start(environment: dict, leave_within="0.3") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RANK, leave_within],
        cwd=ROOT, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_process_leaves_when_its_launcher_is_killed():
    launcher = start({"PADDLE_LOCAL_SIZE": "1"})
    assert launcher.stdout.readline() == "begins\n"
    time.sleep(0.2)
    launcher.kill()
    out, err = launcher.communicate(timeout=20)  # until the pipe's last writer has ended
    assert out.splitlines() == ["told", "asked to leave"]
    assert f"the launcher, process {launcher.pid}, is dead" in err


def test_a_process_without_a_launcher_outlives_its_shell():
    environment = {k: v for k, v in os.environ.items() if k != "PADDLE_LOCAL_SIZE"}
    script = RANK.replace("time.sleep(60)", 'print("whole", flush=True)')
    shell = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, script, "0.3"],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert shell.stdout.readline() == "begins\n"
    shell.kill()
    assert shell.communicate(timeout=20) == ("whole\n", "")


@pytest.mark.slow
def test_a_restart_follows_the_ranks_of_a_killed_launcher(tmp_path):
    """They save and leave, and the next start waits for that instead of running beside them."""
    config = write_run(tmp_path, Global={"max_steps": 100000, "epochs": 100000})
    out, log = tmp_path / "out", tmp_path / "output.txt"
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += [str(ROOT / "tools" / "train.py"), "-c", str(config)]
    command += ["-o", "DataLoader.Train.batch_size=8"]
    with open(log, "w") as file:
        launcher = subprocess.Popen(
            command, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "ERNIE_VIL2_TEST": "1"},
        )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").is_file() or not metrics(out):
        assert launcher.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
    ranks = [find_rank(rank, str(config)) for rank in (0, 1)]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    at_kill = max(metrics(out))
    time.sleep(2)  # they look each second; tools/restart.sh waits for five
    lock = RunLock(out)
    lock.acquire()
    lock.release()
    stopped = layout.step_of(store.find_latest(out / "checkpoints"))
    assert stopped >= at_kill
    train(config, f"Global.max_steps={stopped + 1}", "Global.epochs=100000", resume="auto")
    assert list(metrics(out)) == list(range(1, stopped + 2))
    deadline = time.monotonic() + 20
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in ranks if alive(pid)]
    assert "Traceback" not in log.read_text()
