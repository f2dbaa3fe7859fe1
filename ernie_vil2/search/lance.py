"""A collection in a folder of this machine, by LanceDB.

LanceDB writes new files for every change and then, in one step, a manifest that names them: readers
see a change whole or not at all, and a killed writer leaves files that nothing names. It does not
wait for the disk; `add` and `delete` here do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Floats
from ernie_vil2.data.packages import needed
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import sync
from ernie_vil2.files.lock import Lock
from ernie_vil2.search import filters, folder, rows
from ernie_vil2.search.collection import EVERYTHING, Filter, Hit, Picture
from ernie_vil2.search.models import check_dim, check_model

_BATCH = 1000  # ids of one question, rows of one batch
_DISTANCE = "_distance"  # 1 - cosine


class LanceCollection:
    """`Collection` in a folder; see `open_collection`."""

    def __init__(
        self,
        uri: str,
        model: Mapping[str, Any] | None = None,
        *,
        dim: int | None = None,
        write: bool = False,
    ):
        self.uri, self._model = os.fspath(uri), model
        self._synced: set[str] = set()
        path = Path(self.uri)
        lock: Lock | None = None
        lancedb = needed("lancedb", f"a collection in a folder ({self.uri})", "search")
        try:
            if write:
                lock, there = folder.lock_folder(path, dim)
                database = lancedb.connect(path, read_consistency_interval=timedelta(0))
                if there:
                    self._folder = folder.Folder(path, lock)
                else:
                    assert dim is not None
                    database.create_table(folder.TABLE, schema=rows.schema(dim))
                    self._sync(path)
                    self._folder = folder.finish(path, lock, model, dim)
            else:
                self._folder = folder.open_folder(path)
            check_model(self.uri, self.notes.get("model"), model)
            check_dim(self.uri, self.dim, dim)
            self._table = self._open()
            if write:  # what a killed writer left is not on the disk yet, and is built upon
                self._sync(path)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @property
    def dim(self) -> int:
        return self._folder.dim

    @property
    def notes(self) -> Mapping[str, Any]:
        return self._folder.notes

    def add(self, pictures: Sequence[Picture], vectors: Floats) -> None:
        assert vectors.shape == (len(pictures), self.dim), vectors.shape
        if len(pictures):
            merge = self._table.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(rows.to_table(pictures, vectors))
            self._sync(self._folder.path)

    def delete(self, ids: Sequence[str]) -> None:
        for some in _batches(ids):
            self._table.delete(_of(some))
        self._sync(self._folder.path)

    def search(self, query: Floats, k: int, where: Filter = EVERYTHING) -> list[Hit]:
        found = self._nearest(query, k, where, rows.COLUMNS)
        return list(map(Hit, rows.to_pictures(found), _cosines(found).tolist()))

    def ranking(
        self, query: Floats, k: int, where: Filter = EVERYTHING
    ) -> tuple[list[str], Floats]:
        found = self._nearest(query, k, where, ["id"])
        return found.column("id").to_pylist(), _cosines(found)

    def count(self, where: Filter = EVERYTHING) -> int:
        return self._table.count_rows(filters.sql(where))

    def pictures(self, where: Filter = EVERYTHING) -> Iterator[Picture]:
        batches = self._rows(filters.sql(where), rows.COLUMNS).to_batches(_BATCH)
        return (picture for batch in batches for picture in rows.to_pictures(batch))

    def get(self, ids: Sequence[str]) -> list[Picture | None]:
        found: dict[str, Picture] = {}
        for some in _batches(ids):
            table = self._rows(_of(some), rows.COLUMNS).to_arrow()
            found.update((x.id, x) for x in rows.to_pictures(table))
        return [found.get(id) for id in ids]

    def vectors(self, ids: Sequence[str]) -> Floats:
        found: dict[str, Floats] = {}
        for some in _batches(ids):
            table = self._rows(_of(some), ["id", rows.VECTOR]).to_arrow()
            found.update(zip(table.column("id").to_pylist(), rows.to_vectors(table)))
        return np.array([found[id] for id in ids], "float32").reshape(len(ids), self.dim)

    def note(self, **values: Any) -> None:
        self._folder.note(values)

    def optimize(self) -> Mapping[str, Any]:
        self._table.optimize(cleanup_older_than=timedelta(minutes=1), delete_unverified=True)
        self._sync(self._folder.path)
        return {"index": None, "recall": 1.0}

    def close(self) -> None:
        self._folder.close()

    # -- LanceDB -----------------------------------------------------------------------------------

    def _open(self) -> Any:
        import lancedb

        path = self._folder.path
        try:
            database = lancedb.connect(path, read_consistency_interval=timedelta(0))
            return database.open_table(folder.TABLE)
        except Exception as error:
            raise UserError(
                f"{path} is damaged ({_first_line(error)}): make the collection anew with --rebuild"
            ) from error

    def _rows(self, where: str | None, columns: Sequence[str]) -> Any:
        query = self._table.search().select(list(columns))
        return query if where is None else query.where(where)

    def _nearest(self, query: Floats, k: int, where: Filter, columns: Sequence[str]) -> Any:
        """pyarrow.Table of the k nearest, in order.

        More are asked for until the last is farther away than the k-th: of those as far as the
        k-th, ids decide which are given.
        """
        assert query.shape == (self.dim,), query.shape
        condition, ask = filters.sql(where), max(k, 0) + 1
        while True:
            search = self._table.search(np.asarray(query, "float32")).distance_type("dot")
            if condition is not None:
                search = search.where(condition, prefilter=True)
            found = search.limit(ask).select([*columns, _DISTANCE]).to_arrow()
            if len(found) < ask or k < 1:
                break
            distances = found.column(_DISTANCE)
            if distances[k - 1] != distances[ask - 1]:
                break
            ask *= 2
        return found.sort_by([(_DISTANCE, "ascending"), ("id", "ascending")]).slice(0, max(k, 0))

    def _sync(self, path: Path) -> None:
        """Return when what LanceDB wrote is on the disk; it never changes a file."""
        found = set()
        for root, _, names in os.walk(path / f"{folder.TABLE}.lance"):
            paths = {os.path.join(root, name) for name in names}
            found |= paths
            for new in paths - self._synced:
                sync(Path(new))
            if not paths <= self._synced:
                sync(Path(root))
        self._synced = found


def _of(ids: Sequence[str]) -> str:
    return f"id IN ({', '.join(map(filters.sql_string, ids))})"


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _cosines(found: Any) -> Floats:
    return 1 - found.column(_DISTANCE).to_numpy()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
