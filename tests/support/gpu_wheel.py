"""Python code run by an environment that has Paddle's wheel for GPUs, on a machine without one."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.paths import ROOT

VARIABLE = "ERNIE_VIL2_GPU_PYTHON"  # names that environment's python


def run_with_gpu_wheel(code: str) -> list[str]:
    """The lines that `code` prints. Skips the test where there is no such environment."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no Python with Paddle's wheel for GPUs")
    done = subprocess.run(
        [python, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOG_minloglevel": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
