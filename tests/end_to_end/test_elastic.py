import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import find_rank
from tests.support.shapes import write_run

LAUNCH = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
STEPS = 12


def restart(times: int, *command: str, **popen) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", str(ROOT / "tools" / "restart.sh"), str(times), *command], text=True, **popen
    )


def kill_and_finish(folder: Path, command: list, environment=None) -> str:
    """Start a run, kill -9 rank 1 after its second checkpoint; returns what all printed."""
    config = write_run(folder, Global={"max_steps": STEPS, "save_interval": 2})
    output = folder / "output.txt"
    with open(output, "w") as file:
        run = subprocess.Popen(
            [*command, str(ROOT / "tools" / "train.py"), "-c", str(config), "--resume", "auto",
             "-o", "DataLoader.Train.batch_size=8"],
            cwd=folder, env={**os.environ, "ERNIE_VIL2_TEST": "1", **(environment or {})},
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.time() + 240
            while not (folder / "out" / "checkpoints" / "step_00000004").exists():
                assert run.poll() is None and time.time() < deadline, output.read_text()[-4000:]
                time.sleep(0.05)
            os.kill(find_rank(1, str(config)), signal.SIGKILL)
            code = run.wait(240)
        finally:
            if run.poll() is None:
                run.terminate()  # the launcher ends its ranks
                run.wait(60)
    assert code == 0, output.read_text()[-4000:]
    return output.read_text()


def check_resumed(folder: Path) -> None:
    log = (folder / "out" / "train.log").read_text()
    (resumed,) = re.findall(r"resume from .*step_\d+ at step (\d+)", log)
    assert 4 <= int(resumed) < STEPS
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    steps = [x["step"] for x in map(json.loads, lines) if "train/loss" in x]
    assert steps[-(STEPS - int(resumed)) :] == list(range(int(resumed) + 1, STEPS + 1))
    assert sorted(set(steps)) == list(range(1, STEPS + 1))
    assert (folder / "out" / "checkpoints" / f"step_{STEPS:08d}").is_dir()


@pytest.mark.slow
def test_restart_sh_resumes_a_run_whose_rank_was_killed(tmp_path):
    output = kill_and_finish(tmp_path, ["bash", str(ROOT / "tools" / "restart.sh"), "2", *LAUNCH])
    assert output.count("restart 1 of 2") == 1
    assert "restart 2 of 2" not in output
    check_resumed(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("etcd") or not find_spec("etcd3"), reason="needs etcd and its client etcd3"
)
def test_the_launcher_with_etcd_resumes_a_run_whose_rank_was_killed(tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    etcd = subprocess.Popen(
        ["etcd", "--data-dir", str(tmp_path / "etcd"), "--listen-client-urls", client,
         "--advertise-client-urls", client, "--listen-peer-urls", peer],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        elastic = ["--master", f"etcd://127.0.0.1:{ports[0]}", "--job_id", "shapes"]
        elastic += ["--elastic_level", "1", "--max_restart", "2"]
        # the client's generated code is older than the protobuf beside paddle
        environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
        kill_and_finish(tmp_path, [*LAUNCH, *elastic], environment)
    finally:
        etcd.terminate()
        etcd.wait(30)
    check_resumed(tmp_path)


@pytest.mark.parametrize("code, starts", [(0, 1), (2, 1), (1, 3), (137, 3)])
def test_restart_sh_restarts_failures_alone_and_not_for_ever(tmp_path, code, starts):
    fast = tmp_path / "sleep"  # before the real one in PATH
    fast.write_text("#!/bin/sh\n")
    fast.chmod(0o755)
    run = restart(
        2, "sh", "-c", f"echo start; exit {code}", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    output, _ = run.communicate(timeout=30)
    assert run.returncode == code
    assert output.count("start") == starts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_restart_sh_passes_a_signal_on_and_stops(number):
    script = "import signal, time; signal.signal(15, lambda *_: exit(1)); print(1); time.sleep(60)"
    run = restart(5, sys.executable, "-u", "-c", script, stdout=subprocess.PIPE)
    assert run.stdout.readline() == "1\n"
    run.send_signal(number)
    assert run.wait(10) == 1
    assert run.stdout.read() == ""
    run.stdout.close()


def test_restart_sh_under_nohup_outlives_its_terminal():
    script = "import time; print(1); time.sleep(1); print(2)"
    command = ["nohup", "bash", str(ROOT / "tools" / "restart.sh"), "5", sys.executable, "-u", "-c"]
    run = subprocess.Popen([*command, script], text=True, stdout=subprocess.PIPE)
    assert run.stdout.readline() == "1\n"
    run.send_signal(signal.SIGHUP)
    assert run.communicate(timeout=20)[0] == "2\n" and run.returncode == 0
