"""tools/serving_env.sh takes the lock for this machine."""

import os
import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize(
    "gpu,card,device,lock",
    [
        (False, "", "", "requirements-serving.txt"),
        (True, "", "", "requirements-serving-gpu.txt"),
        (True, "", "cpu", "requirements-serving.txt"),
        (False, "=7.5,535.54", "", "requirements-serving-gpu.txt"),
    ],
)
def test_the_lock(tmp_path, gpu, card, device, lock):
    done = plan(tmp_path, gpu, card, device)
    assert done.returncode == 0, done.stderr
    assert f"would install: {lock} into .venv-serving\n" in done.stdout


def test_a_card_that_needs_paddle_3(tmp_path):
    done = plan(tmp_path, False, "=9.0,550.54.14", "")
    assert done.returncode == 2
    assert "capability 9.0, driver 550.54.14 needs Paddle 3, and Paddle Serving" in done.stderr


def plan(folder, gpu: bool, card: str, device: str) -> subprocess.CompletedProcess:
    """`--dry-run` beside an nvidia-smi that answers about an A100, or fails without one."""
    smi = folder / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho 8.0, 535.54, A100\nexit {int(not gpu)}\n")
    smi.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    environment["ERNIE_VIL2_DEVICE"] = device
    for name in ("ERNIE_VIL2_SERVING_VENV", "ERNIE_VIL2_REQUIREMENTS"):  # the latter is set in CI
        environment.pop(name, None)
    command = ["bash", "tools/serving_env.sh", f"--dry-run{card}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_both_locks_have_the_same_packages_but_for_paddle():
    cpu, gpu = (pins(f"requirements-serving{kind}.txt") for kind in ("", "-gpu"))
    assert cpu.pop("paddlepaddle") == gpu.pop("paddlepaddle-gpu")
    cuda = pins("requirements-gpu.in")
    assert {name: gpu.pop(name) for name in cuda} == cuda
    assert set(gpu) == set(cpu)


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if "==" in line and line[0] != " ")
