"""Ends a process of `paddle.distributed.launch` whose launcher has died.

Killed alone, as for want of memory, a launcher leaves its processes behind, in sessions of their
own: they would train on, beside those of the next start.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from ernie_vil2.training.watchdog import EXIT_CODE, end_now

log = logging.getLogger("ernie_vil2")

LEAVE_WITHIN = 600  # seconds that saving a checkpoint may take
_LOOK = 1.0  # seconds between looks
_when_dead: list[Callable[[], None]] = []


def watch() -> None:
    """As soon as the launcher is dead, send this process SIGTERM, and end it if it doesn't leave.

    To be called early, and does nothing in a process that no launcher started.
    """
    started = any(thread.name == "launcher" for thread in threading.enumerate())
    if "PADDLE_LOCAL_SIZE" in os.environ and not started:
        threading.Thread(target=_watch, args=[os.getppid()], name="launcher", daemon=True).start()


def when_dead(tell: Callable[[], None]) -> None:
    """Have `tell` called, by a thread, when the launcher is found dead.

    The main thread may be within a collective for a while, and then sees no signal.
    """
    _when_dead.append(tell)


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_LOOK)
    log.warning("the launcher, process %d, is dead: this process leaves as after SIGTERM", launcher)
    for tell in _when_dead:
        tell()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_WITHIN)
    end_now(EXIT_CODE)
