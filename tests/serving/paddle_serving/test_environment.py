"""tools/serving_env.sh takes the lock for this machine."""

import os
import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize(
    "gpu,device,lock",
    [
        (False, "", "requirements-serving.txt"),
        (True, "", "requirements-serving-gpu.txt"),
        (True, "cpu", "requirements-serving.txt"),
    ],
)
def test_the_lock(tmp_path, gpu, device, lock):
    smi = tmp_path / "nvidia-smi"  # as it answers about an A100, or fails without one
    smi.write_text(f"#!/bin/sh\necho 8.0\nexit {int(not gpu)}\n")
    smi.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["ERNIE_VIL2_DEVICE"] = device
    command = ["bash", "tools/serving_env.sh", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{lock}\n"), done.stderr


def test_both_locks_have_the_same_packages_but_for_paddle():
    cpu, gpu = (pins(f"requirements-serving{kind}.txt") for kind in ("", "-gpu"))
    assert cpu.pop("paddlepaddle") == gpu.pop("paddlepaddle-gpu")
    cuda = pins("requirements-gpu.in")
    assert {name: gpu.pop(name) for name in cuda} == cuda
    assert set(gpu) == set(cpu)


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if "==" in line and line[0] != " ")
