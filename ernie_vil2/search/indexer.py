"""Folders of pictures into a collection, and later what changed there."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import cv2

from ernie_vil2.search.bad import BadPictures
from ernie_vil2.search.batches import Embedder
from ernie_vil2.search.changes import Changes, compare, known_of, progress
from ernie_vil2.search.collection import Collection, Filter, picture_id
from ernie_vil2.search.folders import Folders
from ernie_vil2.search.known import Known
from ernie_vil2.search.load import Bad, Loaded, Loader, Transform
from ernie_vil2.search.progress import NOTE
from ernie_vil2.search.writer import Kept, Writer

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Summary:
    """What an update did, in pictures.

    Attributes:
        there: of the folders, in the collection now.
        moved: that have the bytes, and the vector, of one that is gone.
        bad: that cannot be read, those known before among them.
        looked_at: read, of which `seconds` took to read and embed them.
        foreign: suffix -> how many in formats that are not read.
    """

    there: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    bad: int = 0
    looked_at: int = 0
    seconds: float = 0.0
    foreign: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rate = f"; {self.looked_at / self.seconds:.0f} pictures/s" if self.looked_at else ""
        return (
            f"{self.there} pictures: {self.new} new, {self.changed} changed, {self.moved} moved, "
            f"{self.deleted} deleted, {self.bad} bad{rate}"
        )

    @property
    def writes(self) -> int:
        """How many pictures of the collection are others now."""
        return self.new + self.changed + self.moved + self.deleted


class Indexer:
    """Brings a collection up to what lies in folders.

    Args:
        collection: opened to write.
        folders: what is looked at.
        transform: `Artefact.transform()`.
        embedder: of what it gave.
        bad: where what cannot be read is written down.
        workers: threads that read and decode.
    """

    def __init__(
        self,
        collection: Collection,
        folders: Folders,
        transform: Transform,
        embedder: Embedder,
        bad: BadPictures,
        workers: int = 2,
    ):
        self._collection, self._folders, self._bad = collection, folders, bad
        self._transform, self._embedder, self._workers = transform, embedder, workers
        self._known: Known | None = None  # None: something changed since

    def update(self) -> Summary:
        """Look at the folders once. What was added before Ctrl-C, or an error, stays.

        Raises:
            FolderGone: one is not there, or is empty and the collection has pictures of it.
        """
        if self._known is None:
            self._known = known_of(self._collection, self._folders)
        changes = compare(self._folders, self._known, self._bad)
        pass_ = _Pass(changes)
        try:
            if changes.todo:
                self._known = None
                self._read(pass_)
            self._delete(pass_)
        finally:
            if NOTE in self._collection.notes:
                self._collection.note(**{NOTE: None})
        self._bad.keep(lambda path: path in changes.bad or self._elsewhere(path, changes))
        summary = pass_.summary
        summary.bad, summary.foreign = len(changes.bad), changes.foreign
        each = self._folders.each
        summary.there = sum(self._collection.count(Filter(folder=x.path)) for x in each)
        return summary

    def _elsewhere(self, path: str, changes: Changes) -> bool:
        """Whether this look at the folders says nothing of a path."""
        return self._folders.of(path) is None or changes.unclear(path)

    def _read(self, pass_: _Pass) -> None:
        """Read, embed and keep what is new or changed."""
        cv2.setNumThreads(0)  # there is a thread for each core
        todo, known = pass_.changes.todo, pass_.changes.known
        loader = Loader(self._transform, known.source, self._folders.tags)
        pool, start = ThreadPoolExecutor(self._workers, "decode"), time.monotonic()
        bar = progress("indexing", " pictures", len(todo))
        batch: list[Loaded] = []
        try:
            with bar, Writer(self._collection, len(todo)) as writer:
                for done in _in_order(pool, loader, todo, self._ahead):
                    if isinstance(done, Bad):
                        self._spoiled(done, pass_.changes)
                    elif done is not None:
                        source = pass_.source(done)
                        if source is None:
                            batch.append(done)
                        else:
                            keep_tags = self._folders.keep_tags(done.picture.path)
                            writer.add(Kept(done.picture, None, source, keep_tags))
                    if len(batch) >= self._embedder.size:
                        self._embed(batch, writer, known)
                        batch = []
                    writer.done += 1
                    bar.update()
                if batch:
                    self._embed(batch, writer, known)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        pass_.summary.looked_at = len(todo)
        pass_.summary.seconds = time.monotonic() - start

    def _ahead(self) -> int:
        """Files to be read ahead: those of the next two batches, and what is in work."""
        return 2 * self._embedder.size + self._workers

    def _embed(self, batch: list[Loaded], writer: Writer, known: Known) -> None:
        vectors = self._embedder([done.pixels for done in batch if done.pixels is not None])
        for done, vector in zip(batch, vectors):
            writer.add(Kept(done.picture, vector, None, False))
            known.added(done.picture.id, done.picture.sha256)

    def _spoiled(self, bad: Bad, changes: Changes) -> None:
        """Write down a file of which there is no picture."""
        path, size, mtime_ns = bad.file
        changes.bad.add(path)
        if bad.read:
            changes.known.lost(picture_id(path))  # what the collection has is not what it was
            self._bad.add(path, bad.reason, size, mtime_ns)
        else:
            self._bad.add(path, bad.reason, None, None)

    def _delete(self, pass_: _Pass) -> None:
        """What the folders no longer have; last, since its vectors may have been asked for."""
        for ids in pass_.changes.known.unseen():
            there = [picture for picture in self._collection.get(ids) if picture is not None]
            gone = [x.id for x in there if not pass_.changes.unclear(x.path)]
            if gone:
                self._known = None
                self._collection.delete(gone)
            pass_.deleted(gone)
        pass_.end()


class _Pass:
    """One look at the folders: its changes, and what came of them."""

    def __init__(self, changes: Changes):
        self.changes, self.summary = changes, Summary()
        self._copied: Counter[str] = Counter()  # of pictures, to new places

    def source(self, done: Loaded) -> str | None:
        """The picture whose vector a file's is, if any; the file is counted."""
        id, known = done.picture.id, self.changes.known
        # it was read ahead: by now one with its bytes may have been embedded
        source = done.source or known.source(id, done.picture.sha256)
        if source == id:  # only its time, or its tags
            return source
        if known.has(id):
            self.summary.changed += 1
        elif source is None:
            self.summary.new += 1
        else:
            self._copied[source] += 1
        return source

    def deleted(self, ids: list[str]) -> None:
        """Pictures are gone: some of them only from their places."""
        moved = [id for id in ids if id in self._copied]
        self.summary.moved += sum(self._copied.pop(id) for id in moved)
        self.summary.deleted += len(ids) - len(moved)

    def end(self) -> None:
        """What was copied, and not moved, is new."""
        self.summary.new += sum(self._copied.values())


def _in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[T], R],
    items: Iterable[T],
    ahead: Callable[[], int],
) -> Iterator[R]:
    """`function` of each item, in their order, done by the pool so many of them ahead."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        while len(waiting) >= max(1, ahead()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
