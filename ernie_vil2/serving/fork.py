"""Predictors in the children of a `fork`.

A child has only the thread that forked: no thread that decodes, and none that would release a
program's lock. So a fork waits until no program runs, and the child's predictors get threads of
their own.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Predictor(Protocol):
    def locks(self) -> list: ...

    def start_pool(self) -> None: ...


_predictors: weakref.WeakSet = weakref.WeakSet()
_held: list = []  # during a fork


def protect(predictor: Predictor) -> None:
    """Let it be usable in children, too, as long as it lives."""
    _predictors.add(predictor)


def _before() -> None:
    for predictor in list(_predictors):
        for lock in predictor.locks():
            lock.acquire()
            _held.append(lock)


def _after() -> None:
    while _held:
        _held.pop().release()


def _in_child() -> None:
    _after()
    for predictor in list(_predictors):
        predictor.start_pool()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)
