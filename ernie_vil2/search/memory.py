"""Exact search over a LanceDB table whose rows are kept in memory.

LanceDB's own scan of 100,000 vectors of 768 numbers takes ten times as long as NumPy's product with
them: it reads them from its files for every query. Memory: 4 bytes a number, and about 400 for the
rest of a row.

A row's `_rowid` is its place in LanceDB's files, which never change and are numbered upwards: what
came since is above the last, and a row that is gone was deleted, replaced or moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Floats, Numbers
from ernie_vil2.search import filters, rows
from ernie_vil2.search.collection import COLUMNS, Filter, Picture

_ROW = "_rowid"
_BATCH = 8192  # rows read at a time
_ROOM = 1.1  # times as many rows as there are have room
_DEAD = 0.2  # share of rows that are gone at which the others are copied
_CHUNKS = 64  # pieces of a column at which they are put together


class Memory:
    """The rows of one version of a table.

    It stays as it is when `follow` makes the next one, which shares its vectors where it can.
    """

    def __init__(self, dim: int):
        self._buffer: Floats = np.empty([0, dim], "float32")  # longer than there are rows
        self._columns: Any = rows.schema(dim).remove(len(COLUMNS)).empty_table()
        self._places: Numbers = np.empty(0, "int64")  # their _rowid, ascending
        self._alive: Array = np.empty(0, bool)
        self._copies: Numbers = np.empty(0, "int64")  # rows whose vectors others have too,
        self._firsts: Numbers = self._copies  # and the first row that has it

    def __len__(self) -> int:
        return len(self._places)

    def follow(self, table: Any) -> Memory:
        """The rows of a version of the table that is not older than this one's."""
        above = f"{_ROW} >= {self._places[-1] + 1 if len(self) else 0}"
        fresh = table.count_rows(above)
        there = table.search().select([_ROW]).with_row_id(True).to_arrow()
        alive = self._alive & np.isin(self._places, _places(there))
        gone = len(self) - alive.sum()
        new = self._kept(np.flatnonzero(alive) if gone > _DEAD * len(self) else None, alive, fresh)
        if fresh:
            new._read(table.search().where(above).with_row_id(True).to_batches(_BATCH))
        new._find_copies()
        return new

    def nearest(self, query: Floats, k: int, where: Filter) -> tuple[Numbers, Floats]:
        """Positions and cosines of the k nearest that pass; nearest first, ties by id."""
        scores = self._buffer[: len(self)] @ np.asarray(query, "float32")
        # equal vectors come out unequal by a rounding: the product of matrices sums by their place
        scores[self._copies] = scores[self._firsts]
        passing = self._alive
        if where:
            passing = passing & filters.mask(self._columns, where)
        found = np.flatnonzero(passing)
        k = max(0, min(k, len(found)))
        if 0 < k < len(found):
            of_found = scores[found]
            worst = np.partition(of_found, len(found) - k)[len(found) - k]
            found = found[of_found >= worst]  # and all that are as far as the k-th
        found = found[np.argsort(-scores[found], kind="stable")]
        found = self._ties_by_id(found, scores[found])[:k]
        return found, scores[found]

    def pictures(self, positions: Numbers) -> list[Picture]:
        return rows.to_pictures(self._columns.take(positions))

    def ids(self, positions: Numbers) -> list[str]:
        return self._columns.column("id").take(positions).to_pylist()

    def _ties_by_id(self, found: Numbers, scores: Floats) -> Numbers:
        """Positions in the order of their scores, those of equal ones in the order of their ids."""
        equal = scores[1:] == scores[:-1]
        tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
        ids = np.array(self.ids(found[tied]), str)
        found[tied] = found[tied][np.lexsort((ids, -scores[tied]))]
        return found

    def _kept(self, which: Numbers | None, alive: Array, fresh: int) -> Memory:
        """Some of the rows, or all, with room for `fresh` more."""
        new = Memory(self._buffer.shape[1])
        chosen = slice(None) if which is None else which
        new._places, new._alive = self._places[chosen], alive[chosen]
        new._columns = self._columns if which is None else self._columns.take(which)
        need = len(new) + fresh
        if which is None and need <= len(self._buffer):
            new._buffer = self._buffer
        else:
            new._buffer = np.empty([int(need * _ROOM), self._buffer.shape[1]], "float32")
            new._buffer[: len(new)] = self._buffer[: len(self)][chosen]
        return new

    def _read(self, batches: Any) -> None:
        """Append the rows of these batches, for which there is room."""
        import pyarrow as pa

        tables, places, count = [self._columns], [self._places], len(self)
        for batch in batches:
            self._buffer[count : count + len(batch)] = rows.to_vectors(batch)
            # copied: LanceDB's columns lie in one piece of memory with the vectors
            tables.append(
                pa.Table.from_batches([batch.select(COLUMNS)]).take(np.arange(len(batch)))
            )
            places.append(_places(batch))
            count += len(batch)
        self._columns = pa.concat_tables(tables)
        if self._columns.column(0).num_chunks > _CHUNKS:
            self._columns = self._columns.combine_chunks()
        self._places = np.concatenate(places)
        assert (np.diff(self._places) > 0).all()
        self._alive = np.append(self._alive, np.ones(count - len(self._alive), bool))

    def _find_copies(self) -> None:
        vectors = self._buffer[: len(self)]
        if vectors.shape[1] < 2 or not len(vectors):
            return
        keys = np.ascontiguousarray(vectors[:, :2]).view("int64")[:, 0]
        order = np.argsort(keys, kind="stable")
        starts = np.append(True, np.diff(keys[order]) != 0)
        firsts = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        copies, firsts = order[~starts], firsts[~starts]
        same = [
            (vectors[copies[part]] == vectors[firsts[part]]).all(1)
            for part in (slice(x, x + _BATCH) for x in range(0, len(copies), _BATCH))
        ]
        equal = np.concatenate([np.zeros(0, bool), *same])
        self._copies, self._firsts = copies[equal], firsts[equal]


def _places(table: Any) -> Numbers:
    """The column _rowid of a table or a batch."""
    return table.column(_ROW).to_numpy().astype("int64")
