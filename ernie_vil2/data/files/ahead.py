"""What will be needed soon is done in the background, by a few threads of the process."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable

log = logging.getLogger("ernie_vil2")
_LAST_WAIT = 5.0  # seconds, at the end of the process, for what is being done


class Ahead:
    """Does `action` for the numbers that were last wished for; threads live while there are any.

    A forked process needs one of its own: it has none of the threads.

    Args:
        action: called with a number and the event that tells it to stop.
        threads: at most.
    """

    def __init__(self, action: Callable[[int, threading.Event], None], threads: int):
        self.pid = os.getpid()
        self._action, self._threads = action, threads
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._busy: dict[int, threading.Thread] = {}
        _all.add(self)

    def wish(self, numbers: Iterable[int]) -> None:
        """Do these next, in this order; what was wished for earlier and is not begun is dropped."""
        with self._lock:
            self._waiting = deque(number for number in numbers if number not in self._busy)
            while self._waiting and len(self._busy) < self._threads and not self._stopped.is_set():
                number = self._waiting.popleft()
                thread = threading.Thread(target=self._work, args=(number,), daemon=True)
                self._busy[number] = thread
                thread.start()

    def _work(self, number: int) -> None:
        while True:
            try:
                self._action(number, self._stopped)
            except Exception as error:  # who needs it will find out, and say so
                log.debug("not fetched ahead: %s", error)
            with self._lock:
                thread = self._busy.pop(number)
                if self._stopped.is_set() or not self._waiting:
                    return
                number = self._waiting.popleft()
                self._busy[number] = thread

    def close(self) -> None:
        """Stop, and wait a moment for what is being done."""
        if os.getpid() != self.pid:  # a fork's copy: the lock may be held by nobody
            return
        self._stopped.set()
        with self._lock:
            threads = list(self._busy.values())
        for thread in threads:
            thread.join(_LAST_WAIT)


_all: weakref.WeakSet[Ahead] = weakref.WeakSet()


def _close_all() -> None:
    """Before the interpreter goes: a thread that it ends in the middle would leave its draft."""
    for ahead in list(_all):
        ahead.close()


# What is registered last is called first. fsspec has its connections closed by finalizers, under
# whose hook, which the first finalizer registers, no fetching must be left.
weakref.finalize(Ahead, int)
atexit.register(_close_all)
