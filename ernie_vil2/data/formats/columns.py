"""Files of columns: any row of any file, with a bounded number of decoded bytes in memory.

Such a file is cut into pieces, each of which is decoded as a whole: a row group of a Parquet file,
a record batch of an Arrow file. Where the pieces lie is known from the files' ends alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats import rows
from ernie_vil2.data.packages import needed
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError


class Piece(NamedTuple):
    """Rows that are decoded together.

    Attributes:
        file: its number.
        group: of the file, from 0: a row group, a record batch.
        stride: 0: the piece is the whole group; else the group is cut into parts of so many rows,
            but for the last.
        part: which of these, from 0.
        first: its first row in the file, from 0.
        rows: how many.
    """

    file: int
    group: int
    stride: int
    part: int
    first: int
    rows: int


class ColumnFiles:
    """The rows of some files, read by column. Picklable; safe after fork and in threads.

    A sub-class gives `_load`.

    Args:
        paths: the files.
        pieces: int64 [P, 6], the fields of each Piece, in order of rows.
        memory: bytes of decoded pieces that a process keeps; the last one is kept whatever it has.
    """

    def __init__(self, paths: Sequence[str], pieces: ArrayLike, memory: int):
        self.paths = list(paths)
        self._pieces: Numbers = np.array(pieces, np.int64).reshape(-1, len(Piece._fields))
        self._ends: Numbers = np.cumsum(self._pieces[:, -1])
        self._memory = memory
        self._kept = Kept(memory)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def lengths(self) -> Numbers:
        """Rows of each piece; int64 [P]."""
        return self._pieces[:, -1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": Kept(self._memory)}

    def _load(self, piece: Piece, names: Sequence[str]) -> tuple[Any, int]:
        """The columns `names` of a piece, as pyarrow's table or batch, and the bytes it takes.

        Raises:
            OSError, pyarrow.ArrowException: it cannot be read.
        """
        raise NotImplementedError

    def values(self, position: int, names: tuple[str, ...]) -> tuple[str, list[Any]]:
        """The place of a row, and its values in the columns `names`, as Python has them.

        Raises:
            BadRecord: they cannot be read.
        """
        piece, row = self._find(position)
        source = f"{self.paths[piece.file]}:{piece.first + row + 1}"
        try:
            table = self._kept.get((piece, names), lambda: self._checked(piece, names))
            if isinstance(table, str):
                raise BadRecord(source, table)
            return source, [table.column(name)[row].as_py() for name in names]
        except UnicodeDecodeError as error:
            raise BadRecord(source, f"invalid UTF-8: {error.reason}") from error
        except OSError as error:
            raise BadRecord(source, error.strerror or str(error)) from error
        except MemoryError:
            raise BadRecord(source, "no memory for the rows it is stored with") from None

    def find(self, source: str) -> int | None:
        """The position of the row that has this place."""
        path, row = rows.place(source)
        for piece, end in zip(map(Piece._make, self._pieces.tolist()), self._ends.tolist()):
            if self.paths[piece.file] == path and 0 <= row - piece.first < piece.rows:
                return int(end - piece.rows + row - piece.first)
        return None

    def _find(self, position: int) -> tuple[Piece, int]:
        """The piece of a row, and the row's number in it."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        piece = Piece(*self._pieces[number].tolist())
        return piece, position - int(self._ends[number]) + piece.rows

    def _checked(self, piece: Piece, names: tuple[str, ...]) -> tuple[Any, int]:
        """The piece, or where it is damaged, why: it is kept, so as not to read it in vain again.

        What the system refuses is no damage: it is raised, and tried again for the next row.
        """
        try:
            table, size = self._load(piece, names)
        except _errors() as error:
            if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                raise
            return f"group {piece.group + 1} of its rows cannot be read: {error}", 0
        if table.num_rows != piece.rows:
            return "the file is not the one that was opened: start again", 0
        return table, size


def _errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a file that it cannot read, or that is not what it seems."""
    arrow = needed("pyarrow", "a file of columns").ArrowException
    return arrow, OSError, ValueError, MemoryError


class Kept:
    """What a process has decoded, by key; beyond `limit` bytes the least recently used goes.

    Without a lock: two threads may decode one piece twice.
    """

    def __init__(self, limit: int):
        self._limit, self._process = limit, os.getpid()
        self._items: dict[Any, tuple[Any, int]] = {}

    def get(self, key: Any, load: Callable[[], tuple[Any, int]]) -> Any:
        """The item of `key`, from load() -> (item, bytes) where it is not kept."""
        if self._process != os.getpid():  # a child's memory is its own to bound
            self._process, self._items = os.getpid(), {}
        found = self._items.pop(key, None)
        item = found or load()
        self._items[key] = item  # the last of the dict is the last used
        if found is None:
            self._drop()
        return item[0]

    def _drop(self) -> None:
        items = list(self._items.items())
        total = sum(size for _, (_, size) in items)
        for key, (_, size) in items[:-1]:
            if total <= self._limit:
                break
            self._items.pop(key, None)
            total -= size


def bound(value: Any) -> int:
    """The option `memory`, megabytes, as bytes."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
        raise UserError(
            f"memory is {value!r}: give the megabytes of decoded rows that a process keeps, from 1 "
            f"to {1 << 20}"
        )
    return value << 20


@contextlib.contextmanager
def told(path: str, what: str) -> Iterator[None]:
    """What may go wrong when the file is opened, in one line; `what` it should be."""
    try:
        yield
    except UserError:
        raise
    except _errors() as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        if getattr(error, "errno", None) is not None:
            raise UserError(f"cannot read {path}: {reason}") from error
        raise UserError(f"{path} is damaged or no {what} file: {reason}") from error
