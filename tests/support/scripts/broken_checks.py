"""Checks of a part that goes wrong as the name of its folder says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.gpu_check.rows import NotRun, at_most


def good(setting):
    yield at_most("a number", 1.0, 2.0)


def broken(setting):
    folder = Path(setting.folder)
    if folder.name == "hangs":  # and leaves a process of its own session, as the launcher does
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        (folder / "pid").write_text(str(child.pid))
        time.sleep(600)
    if folder.name == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if folder.name == "raises":
        raise RuntimeError("a launch failed\nValueError: the last line tells\n")
    if folder.name == "cannot":
        raise NotRun("needs a GPU")
    yield at_most("another number", float("nan"), 2.0)


def after(setting):
    yield at_most("the next check", 0.0, 0.0)


CHECKS = {"good": good, "broken": broken, "after": after}
