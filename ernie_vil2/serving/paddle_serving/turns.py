"""Whose turn it is: requests over HTTP and gRPC share what is read and prepared at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Busy(Exception):
    """There is no room for a request now; the message is one line for its client."""


class Gone(Exception):
    """The client of a request has left: nobody would read the answer."""


class Turns:
    """Places for requests with images and for those with texts alone, so that texts pass images.

    Args:
        working: requests of each kind in work at a time.
        waiting: of each kind beyond them.
        seconds: that one waits at most.

    Attributes:
        most: requests of each kind that are taken at a time.
    """

    def __init__(self, working: int, waiting: int, seconds: float):
        self.most = working + waiting
        self.seconds = seconds
        self._turns = {kind: threading.BoundedSemaphore(working) for kind in ("image", "text")}
        self._admitted = dict.fromkeys(self._turns, 0)
        self._working = 0
        self._moved = time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, kind: str, gone: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn, "image" or "text", and hold it.

        Raises:
            Busy: too many wait already, or it took too long.
            Gone: the client has left meanwhile.
        """
        with self._lock:
            if self._admitted[kind] >= self.most:
                raise Busy("too many requests are in work: try again")
            self._admitted[kind] += 1
        try:
            if not self._turns[kind].acquire(timeout=self.seconds):
                raise Busy(f"not begun within {self.seconds:g} s: the service is overloaded")
            try:
                if gone():
                    raise Gone
                with self._work():
                    yield
            finally:
                self._turns[kind].release()
        finally:
            with self._lock:
                self._admitted[kind] -= 1

    @contextmanager
    def _work(self) -> Iterator[None]:
        with self._lock:
            self._working += 1
        self.moved()
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
            self.moved()

    def moved(self) -> None:
        """Something of the work is done."""
        self._moved = time.monotonic()

    @property
    def idle(self) -> bool:
        return self._working == 0

    def stuck(self, seconds: float) -> bool:
        """Whether there is work and for so long nothing of it was done."""
        return not self.idle and time.monotonic() - self._moved > seconds
