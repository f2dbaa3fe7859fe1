"""That a process which used LanceDB ends well.

Its threads take part in Python for a moment after an answer was given. If the interpreter is taken
down just then, it aborts ("PyGILState_Release: thread state must be current when releasing"), and a
command that did its work ends with code 134: about every second one that ends right after a search.
Known as issue 40 of PyO3/pyo3-async-runtimes.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import time

_LONGEST = 1.0  # seconds, for threads of others that take part in Python all the time
_registered = False


def wait_at_exit() -> None:
    """Let this process, when it ends, wait for threads that Python does not know."""
    global _registered
    if not _registered:
        _registered = True
        atexit.register(_wait)


def _wait() -> None:
    end = time.monotonic() + _LONGEST
    while _thread_states() > threading.active_count() and time.monotonic() < end:
        time.sleep(0.001)  # and give up the interpreter's lock


def _thread_states() -> int:
    """How many threads take part in Python now."""
    api = ctypes.pythonapi
    for name, arguments in {
        "PyInterpreterState_Get": [],
        "PyInterpreterState_ThreadHead": [ctypes.c_void_p],
        "PyThreadState_Next": [ctypes.c_void_p],
    }.items():
        function = getattr(api, name)
        function.argtypes, function.restype = arguments, ctypes.c_void_p
    count, state = 0, api.PyInterpreterState_ThreadHead(api.PyInterpreterState_Get())
    while state:
        count, state = count + 1, api.PyThreadState_Next(state)
    return count
