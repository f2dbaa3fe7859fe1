"""A collection in a folder of this machine, by LanceDB.

LanceDB writes new files for every change and then, in one step, a manifest that names them: readers
see a change whole or not at all, and a killed writer leaves files that nothing names. It does not
wait for the disk; `add` and `delete` here do.

Up to 200,000 pictures a search goes through all of them in memory (`memory.py`); beyond, it
goes through an index (`ivf.py`), of which all cells are read under a filter and for long lists.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Floats
from ernie_vil2.errors import UserError
from ernie_vil2.search import filters, ivf, recall, rows
from ernie_vil2.search.collection import COLUMNS, EVERYTHING, Filter, Hit, Picture
from ernie_vil2.search.memory import Memory
from ernie_vil2.search.table import Table

_BATCH = 1000  # ids of one question, rows of one batch
_NOTHING: tuple[tuple[str, int], Memory | None] = (("", 0), None)  # a version, and its rows


class LanceCollection:
    """`Collection` in a folder; see `open_collection`."""

    def __init__(
        self,
        uri: str | os.PathLike[str],
        model: Mapping[str, Any] | None = None,
        *,
        dim: int | None = None,
        write: bool = False,
    ):
        self.uri = os.fspath(uri)
        self._table = Table(Path(self.uri), model, dim, write)
        self._memory = _NOTHING
        self._mutex = threading.Lock()

    @property
    def dim(self) -> int:
        return self._table.folder.dim

    @property
    def notes(self) -> Mapping[str, Any]:
        return self._table.folder.notes

    def add(self, pictures: Sequence[Picture], vectors: Floats) -> None:
        assert vectors.shape == (len(pictures), self.dim), vectors.shape
        if len(pictures):
            self._table.merge(rows.to_table(pictures, vectors))
            if self._table.untidy():
                self._table.optimize()

    def delete(self, ids: Sequence[str]) -> None:
        for some in _batches(ids):
            self._table.delete(_of(some))

    def search(self, query: Floats, k: int, where: Filter = EVERYTHING) -> list[Hit]:
        memory = self._exact()
        if memory is not None:
            positions, cosines = memory.nearest(query, k, where)
            return list(map(Hit, memory.pictures(positions), cosines.tolist()))
        found = self._nearest(query, k, where, COLUMNS)
        return list(map(Hit, rows.to_pictures(found), ivf.cosines(found).tolist()))

    def ranking(
        self, query: Floats, k: int, where: Filter = EVERYTHING
    ) -> tuple[list[str], Floats]:
        memory = self._exact()
        if memory is not None:
            positions, cosines = memory.nearest(query, k, where)
            return memory.ids(positions), cosines
        found = self._nearest(query, k, where, ["id"])
        return found.column("id").to_pylist(), ivf.cosines(found)

    def count(self, where: Filter = EVERYTHING) -> int:
        return self._table.read(lambda table: table.count_rows(filters.sql(where)))

    def pictures(self, where: Filter = EVERYTHING) -> Iterator[Picture]:
        hold = self._table.folder.reading()
        batches = self._table.read(
            lambda table: _rows(table, filters.sql(where), COLUMNS).to_batches(_BATCH)
        )
        return _stream(batches, hold)

    def get(self, ids: Sequence[str]) -> list[Picture | None]:
        found: dict[str, Picture] = {}
        for table in self._of(ids, COLUMNS):
            found.update((x.id, x) for x in rows.to_pictures(table))
        return [found.get(id) for id in ids]

    def vectors(self, ids: Sequence[str]) -> Floats:
        found: dict[str, Floats] = {}
        for table in self._of(ids, ["id", rows.VECTOR]):
            found.update(zip(table.column("id").to_pylist(), rows.to_vectors(table)))
        return np.array([found[id] for id in ids], "float32").reshape(len(ids), self.dim)

    def note(self, **values: Any) -> None:
        self._table.folder.note(values)

    def optimize(self) -> Mapping[str, Any]:
        self._table.optimize()
        count = self.count()
        result: dict[str, Any] = {"index": None, "recall": 1.0, "rows": count}
        if count > recall.EXACT_UP_TO:
            earlier = self.notes.get("index", {})
            result = self._table.change(lambda table: ivf.renew(table, earlier))
        self.note(index=result)
        return result

    def close(self) -> None:
        self._memory = _NOTHING
        self._table.close()

    # -- How it is searched ------------------------------------------------------------------------

    def _exact(self) -> Memory | None:
        """The rows as they are now, in memory; None where they are too many."""
        with self._mutex:
            try:
                return self._follow()
            except UserError:  # their files were cleaned up meanwhile: the next version has others
                self._table.forget()
                return self._follow()

    def _follow(self) -> Memory | None:
        with self._table.pinned() as (version, table):
            seen, memory = self._memory
            if version == seen:
                return memory
            if table.count_rows() > recall.EXACT_UP_TO:
                memory = None
            else:
                same = memory is not None and version[0] == seen[0]
                memory = (memory if same and memory else Memory(self.dim)).follow(table)
            self._memory = (version, memory)
            return memory

    def _nearest(self, query: Floats, k: int, where: Filter, columns: Sequence[str]) -> Any:
        """pyarrow.Table of the k nearest, in order, by LanceDB.

        More are asked for until the last is farther away than the k-th: of those as far as the
        k-th, ids decide which are given.
        """
        cells = recall.cells_of(self.notes, bool(where) or k > recall.LONG, ivf.ALL)
        condition, k = filters.sql(where), max(k, 0)
        ask = k + 1
        while True:

            def ask_for(table: Any, count: int = ask) -> Any:
                search = table.search(np.asarray(query, "float32")).distance_type(ivf.METRIC)
                search = search.nprobes(cells).limit(count).select([*columns, ivf.DISTANCE])
                return (search.where(condition, prefilter=True) if condition else search).to_arrow()

            found = self._table.read(ask_for)
            distances = found.column(ivf.DISTANCE)
            if len(found) < ask or not k or distances[k - 1] != distances[ask - 1]:
                order = [(ivf.DISTANCE, "ascending"), ("id", "ascending")]
                return found.sort_by(order).slice(0, k)
            ask *= 2

    def _of(self, ids: Sequence[str], columns: Sequence[str]) -> Iterator[Any]:
        for some in _batches(ids):
            yield self._table.read(partial(_table_of, _of(some), columns))


def _stream(batches: Any, hold: Any) -> Iterator[Picture]:
    """The pictures of batches, whose files are kept as long as `hold` is."""
    try:
        for batch in batches:
            yield from rows.to_pictures(batch)
    finally:
        hold.release()


def _rows(table: Any, condition: str | None, columns: Sequence[str]) -> Any:
    query = table.search().select(list(columns))
    return query if condition is None else query.where(condition)


def _table_of(condition: str, columns: Sequence[str], table: Any) -> Any:
    return _rows(table, condition, columns).to_arrow()


def _of(ids: Sequence[str]) -> str:
    return f"id IN ({', '.join(map(filters.sql_string, ids))})"


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
