"""The collection behind a server: it stays open while another process writes to it.

What is added shows in the next search. Where `--rebuild` has put another collection in its place,
that one is opened.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import Collection, Picture
from ernie_vil2.search.open import open_collection
from ernie_vil2.search.searcher import Encoder, Searcher
from ernie_vil2.serving.http.find.summary import Summaries
from ernie_vil2.serving.web.errors import ApiError

log = logging.getLogger("ernie_vil2")
_Result = TypeVar("_Result")


class Opened:
    """A collection with what is built upon it, and how many use it now."""

    def __init__(self, collection: Collection, encoder: Encoder, place: object):
        self.collection, self.place = collection, place
        self.searcher = Searcher(collection, encoder)
        self.summaries = Summaries(collection.pictures)
        self.users = 1  # the gallery itself


class Gallery:
    """Threads may share it; each call may wait for the store.

    Args:
        uri: of the collection.
        model: that its vectors have to be of.
        encoder: the same model.

    Raises:
        UserError: it cannot be opened, or is of another model.
    """

    def __init__(self, uri: str, model: Mapping[str, Any], encoder: Encoder):
        self.uri, self._model, self._encoder = uri, model, encoder
        self._mutex = threading.Lock()
        self._opened: Opened | None = self._open()

    def use(self, work: Callable[[Opened], _Result]) -> _Result:
        """`work` on the collection; once more, if a rebuild took its files away meanwhile."""
        with self._borrowed() as opened:
            try:
                return work(opened)
            except (UserError, ApiError):
                if _place(self.uri) == opened.place:
                    raise
            except Exception:
                if _place(self.uri) == opened.place:
                    raise
        with self._borrowed() as opened:
            return work(opened)

    def count(self) -> int:
        return self.use(lambda opened: opened.collection.count())

    def picture(self, id: str) -> Picture:
        """Raises ApiError 404: no such id."""
        (picture,) = self.use(lambda opened: opened.collection.get([id]))
        if picture is None:
            raise ApiError(404, "no_such_picture", f"no picture {id} is in the collection")
        return picture

    def close(self) -> None:
        with self._mutex:
            opened, self._opened = self._opened, None
        if opened is not None:
            self._release(opened)

    def _open(self) -> Opened:
        place = _place(self.uri)  # before it is opened: what comes between is seen the next time
        return Opened(open_collection(self.uri, self._model), self._encoder, place)

    @contextmanager
    def _borrowed(self) -> Iterator[Opened]:
        opened = self._current()
        try:
            yield opened
        finally:
            self._release(opened)

    def _current(self) -> Opened:
        """What is open, newly opened where another collection has come in its place."""
        place, old = _place(self.uri), None
        with self._mutex:
            if self._opened is None:
                raise ApiError(503, "draining", "the server is shutting down")
            # in the moment of a swap nothing is there
            if place is not None and place != self._opened.place:
                try:
                    old, self._opened = self._opened, self._open()
                except UserError as error:
                    raise ApiError(503, "no_collection", str(error)) from None
                log.info("%s was made anew: opened again", self.uri)
            self._opened.users += 1
            opened = self._opened
        if old is not None:
            self._release(old)
        return opened

    def _release(self, opened: Opened) -> None:
        with self._mutex:
            opened.users -= 1
            last = opened.users == 0
        if last:
            opened.collection.close()


def _place(uri: str) -> object:
    """What tells a collection's folder from another one in its place; None: there is none."""
    if "://" in uri:
        return uri
    try:
        state = os.stat(uri)
    except OSError:
        return None
    return state.st_dev, state.st_ino
