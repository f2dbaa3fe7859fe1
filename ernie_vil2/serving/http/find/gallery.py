"""The collection behind a server: it stays open while another process writes to it.

What is added shows in the next search. Where `--rebuild` has put another collection in its place,
that one is opened.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import Collection, Filter, Picture
from ernie_vil2.search.open import open_collection
from ernie_vil2.search.query import Query
from ernie_vil2.search.results import Found
from ernie_vil2.search.searcher import Encoder, Searcher
from ernie_vil2.serving.http.find.summary import Summaries
from ernie_vil2.serving.web.errors import ApiError

log = logging.getLogger("ernie_vil2")
_Result = TypeVar("_Result")
_REMEMBERED = 60.0  # seconds that a picture is shown without asking whether it is still there
_MOST_REMEMBERED = 20_000  # 10 MB


class Opened:
    """A collection with what is built upon it.

    Attributes:
        place: what tells it from another one under its name.
        users: how many use it now.
    """

    def __init__(self, collection: Collection, encoder: Encoder, place: object):
        self.collection, self.place, self._encoder = collection, place, encoder
        self.summaries = Summaries(collection.pictures)
        self.users = 1  # the gallery itself
        self._searcher, self._count = Searcher(collection, encoder), -1
        self._seen: OrderedDict[str, tuple[float, Picture]] = OrderedDict()
        self._mutex = threading.Lock()  # guards `_seen`

    def search(
        self, query: Query, k: int, offset: int, where: Filter, minimum: float | None, fold: bool
    ) -> Found:
        """`Searcher.search`; the first page is of the collection as it is now."""
        if offset == 0:
            count = self.collection.count()
            if count != self._count:  # the searcher would go on with its old rankings for a while
                renewed = Searcher(self.collection, self._encoder)
                renewed.background = self._searcher.background
                self._searcher, self._count = renewed, count
        found = self._searcher.search(query, k, offset, where, minimum, fold)
        self._remember([hit.picture for hit in found.hits])
        return found

    def learn(self) -> None:
        """Do now what the first search would wait for."""
        self._searcher.background.learn()

    def picture(self, id: str, fresh: bool = False) -> Picture | None:
        """What is known of a picture; of one that was just found without asking the store, for
        which it would be a search of its own."""
        with self._mutex:
            born, picture = self._seen.get(id, (0.0, None))
        if picture is None or fresh or time.monotonic() - born > _REMEMBERED:
            (picture,) = self.collection.get([id])
            if picture is not None:
                self._remember([picture])
        return picture

    def _remember(self, pictures: Sequence[Picture]) -> None:
        now = time.monotonic()
        with self._mutex:
            for picture in pictures:
                self._seen[picture.id] = now, picture
                self._seen.move_to_end(picture.id)
            while len(self._seen) > _MOST_REMEMBERED:
                self._seen.popitem(last=False)


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
            except Exception:
                place = _place(self.uri)
                if place == opened.place:
                    raise
                if place is None:
                    message = f"{self.uri}: the collection is gone"
                    raise ApiError(503, "no_collection", message) from None
        with self._borrowed() as opened:
            return work(opened)

    def picture(self, id: str, fresh: bool = False) -> Picture:
        """What is known of a picture; not `fresh`: or was a minute ago.

        Raises:
            ApiError: 404: no such id.
        """
        picture = self.use(lambda opened: opened.picture(id, fresh))
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
