"""What ended a process, for the message of the one that started it. Standard library only."""

from __future__ import annotations

import signal

_CAUSES = {
    "SIGILL": "Paddle used instructions that this processor lacks: see docs/serving.md",
    "SIGSEGV": "native code read memory that is not there: a damaged model, or packages that do "
    "not fit together",
    "SIGBUS": "a file was cut while it was read, or /dev/shm or the disk is full",
    "SIGFPE": "native code divided by zero: a damaged model",
    "SIGABRT": "native code gave up; its reason stands above",
    "SIGKILL": "somebody or the system killed it, as Linux does when memory runs out (see dmesg)",
}


def describe(returncode: int) -> str:
    """`subprocess.Popen.returncode` in words: the exit code, or the signal and its likely cause.

    A shell's 128 + signal is told as well.
    """
    number = -returncode if returncode < 0 else returncode - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {returncode}"
    cause = _CAUSES.get(name)
    return f"ended by {name}" + (f": {cause}" if cause else "")
