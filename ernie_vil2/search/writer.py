"""A thread that keeps pictures, so that a collection's writes and the model's work overlap."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ernie_vil2.data.arrays import Floats
from ernie_vil2.search import progress
from ernie_vil2.search.collection import Collection, Picture

EVERY_SECONDS, EVERY_PICTURES = 5.0, 1000  # after which what has come is added
NOTE_SECONDS = 1.0  # between two notes of the progress
_LOOK = 0.2  # seconds between looks at what no queue tells


class Kept(NamedTuple):
    """A picture to keep. vector: float32 [D]; None: that of the picture whose id is `source`."""

    picture: Picture
    vector: Floats | None
    source: str | None
    keep_tags: bool  # of `source`, beside the picture's own


class Writer:
    """Adds what it is given in order, some at a time, and notes how far the index is.

    Only its thread touches the collection between `__enter__` and `__exit__`, which adds the rest,
    also after an error or Ctrl-C.

    Attributes:
        total: pictures to look at, for the note.
        done: of these.
    """

    def __init__(self, collection: Collection, total: int):
        self.total, self.done = total, 0
        self._collection = collection
        # bounded: where the disk is slower than the model, the model waits
        self._queue: queue.Queue[Kept] = queue.Queue(2 * EVERY_PICTURES)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None and error[0] is None:
            raise self._error

    def add(self, kept: Kept) -> None:
        """Take a picture. Raises what an earlier write has failed with."""
        while self._error is None:
            with contextlib.suppress(queue.Full):
                return self._queue.put(kept, timeout=_LOOK)
        raise self._error

    # -- Its thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # for the thread that gives pictures
            self._error = error

    def _work(self) -> None:
        waiting: list[Kept] = []
        noted = began = time.monotonic()
        while True:
            ended = self._ended.is_set()  # asked first: nothing comes after
            with contextlib.suppress(queue.Empty):
                waiting.append(self._queue.get(block=not ended, timeout=_LOOK))
                if len(waiting) == 1:
                    began = time.monotonic()
            now = time.monotonic()
            last = ended and self._queue.empty()
            full = len(waiting) >= EVERY_PICTURES or now - began > EVERY_SECONDS
            if waiting and (last or full):
                self._add(waiting)
                waiting = []
            if last:
                return
            if now - noted > NOTE_SECONDS:
                self._note()
                noted = now

    def _note(self) -> None:
        self._collection.note(**{progress.NOTE: progress.note(self.done, self.total)})

    def _add(self, waiting: Sequence[Kept]) -> None:
        new = [(kept.picture, kept.vector) for kept in waiting if kept.vector is not None]
        if new:
            pictures, vectors = zip(*new)
            self._collection.add(pictures, np.stack(vectors))
        same = [kept for kept in waiting if kept.source is not None]
        if same:
            sources = [str(kept.source) for kept in same]
            before = self._collection.get(sources)
            self._collection.add(
                list(map(_joined, same, before)), self._collection.vectors(sources)
            )


def _joined(kept: Kept, before: Picture | None) -> Picture:
    """A picture, and what it has in common with one of the same bytes."""
    assert before is not None and before.sha256 == kept.picture.sha256, kept
    tags = dict.fromkeys([*kept.picture.tags, *(before.tags if kept.keep_tags else ())])
    return dataclasses.replace(
        kept.picture,
        width=before.width,
        height=before.height,
        dhash=before.dhash,
        tags=tuple(tags),
    )
