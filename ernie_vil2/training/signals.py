"""Signals that ask a run to save and leave."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP ended the run, after a checkpoint was saved."""


def stop_signals() -> list[signal.Signals]:
    """Those that end a run."""
    # nohup has SIGHUP ignored, so that a run outlives its terminal
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


class StopSignals:
    """Inside `with`, takes note of signals instead of ending the process.

    Args:
        tell: called for each that comes.

    Attributes:
        received: whether one came.
    """

    def __init__(self, tell: Callable[[], None] | None = None):
        self.tell, self.received = tell, False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._handlers = {s: signal.signal(s, self._receive) for s in stop_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self.tell:
            self.tell()
