"""What ended a process is said with the signal's name and its likely cause."""

import subprocess
import sys

import pytest

from ernie_vil2.serving.paddle_serving import signals


@pytest.mark.parametrize(
    "name,cause",
    [
        ("SIGILL", "instructions that this processor lacks"),
        ("SIGSEGV", "memory that is not there"),
        ("SIGBUS", "a file was cut"),
        ("SIGKILL", "memory runs out"),
        ("SIGTERM", ""),
    ],
)
def test_a_process_that_died(name, cause):
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    died = subprocess.run([sys.executable, "-c", code])
    said = signals.describe(died.returncode)
    assert said.startswith(f"ended by {name}") and cause in said
    by_shell = subprocess.run(["sh", "-c", f"{sys.executable} -c '{code}'; exit $?"])
    assert signals.describe(by_shell.returncode) == said


@pytest.mark.parametrize("code", [0, 1, 2, 127, 128, 255, -200])
def test_exit_codes(code):
    assert signals.describe(code) == f"exit code {code}"
