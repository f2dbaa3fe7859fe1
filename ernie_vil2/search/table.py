"""LanceDB's table in a collection's folder: opened, followed, changed durably, kept tidy."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ernie_vil2.data.packages import needed
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import sync
from ernie_vil2.search import leaving, rows
from ernie_vil2.search.folder import DATA, Folder, finish, lock_folder, open_folder
from ernie_vil2.search.models import check_dim, check_model

TABLE = "pictures"
T = TypeVar("T")
# Adds make a fragment each, which slow the next ones: put together after so many, if they hold a
# fair share of all rows, since all are written anew; after more in any case.
_FRAGMENTS, _SHARE, _MOST_FRAGMENTS = 256, 1 / 8, 1024
_FEW_CHANGES = 16  # of which `optimize` makes nothing
_KEEP = timedelta(milliseconds=1)  # old versions: a read that lost its files is done again
_KEEP_READ = timedelta(days=7)  # the same, while somebody goes through all pictures
_CACHE = 4 << 30  # bytes of an index in memory: 1.3 million vectors of 768 numbers
_TICK = 50 * 10**6  # nanoseconds; those of file systems are up to 10 ms
_DAMAGE = (RuntimeError, OSError)  # what LanceDB raises; ValueError where no table is


class Table:
    """The table of the collection at `path`; see `open_collection` for the arguments."""

    def __init__(self, path: Path, model: Mapping[str, Any] | None, dim: int | None, write: bool):
        os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are of indexes' cells
        self._lancedb = needed("lancedb", f"the collection {path}", "search")
        leaving.wait_at_exit()
        self._path, self._model = path, model
        self._mutex = threading.RLock()
        self._synced: set[str] = set()
        self._table: Any = None
        self._version, self._seen, self._made = 0, (0, 0), ""
        if write:
            lock, there = lock_folder(path, dim)
            try:
                if there:
                    self.folder = Folder(path, lock)
                else:
                    assert dim is not None
                    self._make(dim)
                    self.folder = finish(path, lock, model, dim)
                self._open(dim)
                self._sync()  # what a killed writer left is built upon, and not on the disk yet
                with self._explained():
                    self._since = _Since(self._table)
            except BaseException:
                lock.release()
                raise
        else:
            self.folder = open_folder(path)
            self._open(dim)

    def read(self, ask: Callable[[Any], T]) -> T:
        """What `ask` gives of the table as it is now."""
        with self.pinned() as (_, table):
            pass
        try:
            return ask(table)
        except _DAMAGE:  # its version was cleaned up meanwhile
            self.forget()
            with self.pinned() as (_, table), self._explained():
                return ask(table)

    def forget(self) -> None:
        """Ask LanceDB itself for the last version the next time."""
        self._seen = (0, 0)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[tuple[tuple[str, int], Any]]:
        """The table as it is now, and a name of this state; inside, it stays so."""
        with self._mutex:
            self.folder.refresh()
            if self.folder.made != self._made:  # by --rebuild, at the same place
                self._open(None)
            with self._explained():
                self._follow()
                yield (self.folder.made, self._version), self._table

    def _follow(self) -> None:
        """Go to the last version, asking LanceDB only if the folder of versions has changed.

        A second change within the clock's tick leaves the folder's time as it is: so a time is
        trusted only if it was old when it was seen.
        """
        state = os.stat(self._path / DATA / "_versions")
        seen = (state.st_ino, state.st_mtime_ns)
        if seen != self._seen:
            self._table.checkout_latest()
            self._version = self._table.version
            settled = time.time_ns() - state.st_mtime_ns > _TICK
            self._seen = seen if settled else (0, 0)

    def merge(self, table: Any) -> None:
        """Keep rows, in place of those of their ids."""

        def merge(target: Any) -> None:
            action = target.merge_insert("id").when_matched_update_all()
            action.when_not_matched_insert_all().execute(table)

        self.change(merge)
        self._since.rows += len(table)

    def delete(self, condition: str) -> None:
        self.change(lambda table: table.delete(condition))

    def change(self, action: Callable[[Any], T]) -> T:
        """What `action` gives, when what it has written is on the disk."""
        self.folder.check_writable()
        with self._mutex, self._explained():
            result = action(self._table)
            self._sync()
        self._since.changes += 1
        return result

    def untidy(self) -> bool:
        """Whether many adds make the next ones slow."""
        fragments = self._since.fragments + self._since.changes
        share = self._since.rows >= _SHARE * self._since.stored
        return fragments >= (_FRAGMENTS if share else _MOST_FRAGMENTS)

    def optimize(self) -> None:
        """Put small files together, bring the index up to date, remove files that only old
        versions name, unless somebody goes through them."""
        if self._since.changes + self._since.fragments < _FEW_CHANGES:
            return
        with self.folder.nobody_reads() as nobody:
            keep = _KEEP if nobody else _KEEP_READ
            # Files that no version names are those of killed writers: we have the lock. Once, since
            # each time LanceDB writes the whole index anew, and keeps the one before it.
            self.change(lambda x: x.optimize(cleanup_older_than=keep, delete_unverified=nobody))
        with self._explained():
            self._since = _Since(self._table)

    def close(self) -> None:
        self.folder.close()

    def _make(self, dim: int) -> None:
        with self._explained():
            options = {"new_table_enable_stable_row_ids": "false"}  # `memory.py` goes by places
            database = self._lancedb.connect(self._path, storage_options=options)
            database.create_table(TABLE, schema=rows.schema(dim))
            self._sync()

    def _open(self, dim: int | None) -> None:
        name = os.fspath(self._path)
        check_model(name, self.folder.notes.get("model"), self._model)
        check_dim(name, self.folder.dim, dim)
        with self._explained():
            session = self._lancedb.Session(index_cache_size_bytes=_CACHE)
            database = self._lancedb.connect(self._path, session=session)
            self._table = database.open_table(TABLE)
            self._made = self.folder.made
            self._seen, self._version = (0, 0), self._table.version

    def _sync(self) -> None:
        """Return when what LanceDB wrote is on the disk; it never changes a file."""
        found = set()
        for root, _, names in os.walk(self._path / DATA):
            paths = {os.path.join(root, name) for name in names}
            found |= paths
            for new in paths - self._synced:
                sync(Path(new))
            if not paths <= self._synced:
                sync(Path(root))
        self._synced = found

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (*_DAMAGE, ValueError) as error:
            ours = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
            if ours or (isinstance(error, ValueError) and " was not found" not in str(error)):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            full = "No space left" in str(error)
            remedy = "free space there" if full else "make the collection anew with --rebuild"
            raise UserError(
                f"{self._path} cannot be {'written' if full else 'read: it is damaged'} "
                f"({reason}): {remedy}"
            ) from error


class _Since:
    """What came since a table was tidied up: changes, and rows beside those stored then."""

    def __init__(self, table: Any):
        self.stored, self.rows, self.changes = table.count_rows(), 0, 0
        self.fragments = table.stats()["fragment_stats"]["num_fragments"]
