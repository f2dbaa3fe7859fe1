"""Signals to a run, in training and in an evaluation, and what becomes of its processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie_vil2.training.signals import stop_signals
from tests.support.paths import ROOT, SCRIPTS
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train


def test_nohup_is_respected():
    assert signal.SIGHUP in stop_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_leaves(tmp_path, number):
    config = write_run(tmp_path)
    argv = ["-c", str(config), "-o", "Global.max_steps=100000", "Global.epochs=100000"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train.py"), *argv],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    out = tmp_path / "out"
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() or not metrics(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "--resume auto" in err and "Traceback" not in err
    stopped_at = max(metrics(out))
    saved = int((out / "checkpoints" / "latest").resolve().name[-8:])
    assert saved == stopped_at
    train(config, f"Global.max_steps={saved + 1}", "Global.epochs=100000", resume="auto")
    assert max(metrics(out)) == saved + 1


def waiting_evaluation(folder: Path, *overrides) -> tuple:
    """A run in a process group of its own, in its first evaluation: (process, workers' ids)."""
    overrides = [
        *("Global.eval_interval=1", "Global.max_steps=3", "DataLoader.Eval.batch_size=1"),
        *("DataLoader.Eval.num_workers=2", "DataLoader.Train.num_workers=2", *overrides),
    ]
    process = subprocess.Popen(
        [
            *(
                sys.executable,
                str(SCRIPTS / "waiting_evaluation.py"),
                str(folder),
            ),
            *("-c", str(write_run(folder)), "-o", *overrides),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids, workers, deadline = folder / "pids", set(), time.monotonic() + 120
    while len(workers) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
        workers = {*map(int, pids.read_text().split())} if pids.is_file() else set()
    return process, workers


def test_sigterm_to_the_group_in_an_evaluation_saves_and_leaves(tmp_path):
    process, workers = waiting_evaluation(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "--resume auto" in err and "Traceback" not in err and "SystemError" not in err
    latest = tmp_path / "out" / "checkpoints" / "latest"
    assert latest.resolve().name == "step_00000001"
    assert json.loads((latest / "state.json").read_text())["evaluated_at"] is None
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_killed_evaluation_worker_costs_nothing(tmp_path):
    process, workers = waiting_evaluation(tmp_path, "Global.max_steps=1")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "restarted" in err
    assert list(metrics(tmp_path / "out", "eval/mean_recall")) == [1]


def test_evaluation_workers_end_with_a_killed_parent(tmp_path):
    process, _ = waiting_evaluation(tmp_path)
    process.kill()
    (tmp_path / "go").touch()
    process.communicate(timeout=60)  # until its workers too have closed the pipe, or it raises
