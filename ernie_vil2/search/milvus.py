"""A collection in Milvus, for more pictures than one machine holds.

What `add` has returned from is in Milvus's log, which it plays back after a restart. A writer reads
all that was written before (the level Strong); a reader may lag some seconds behind (Bounded) and
saves 0.2 s a search. Each picture is seen whole, an `add` of many for a moment in part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Floats
from ernie_vil2.errors import UserError
from ernie_vil2.search import filters, milvus_table, recall
from ernie_vil2.search.collection import COLUMNS, EVERYTHING, Filter, Hit, Picture
from ernie_vil2.search.milvus_lease import Lease
from ernie_vil2.search.milvus_link import Link
from ernie_vil2.search.milvus_table import CELLS, MOST, NOTES, WRITER, MilvusTable
from ernie_vil2.search.models import check_dim, check_format, check_model

_FORMAT = 1


class MilvusCollection:
    """`Collection` in Milvus; see `open_collection`."""

    def __init__(
        self,
        uri: str,
        model: Mapping[str, Any] | None = None,
        *,
        dim: int | None = None,
        write: bool = False,
    ):
        self._lease: Lease | None = None
        self._link = link = Link(uri)
        self.uri = link.uri
        try:
            if not link.ask(link.api.utility.has_collection, link.name, using=link.alias):
                if not write or dim is None:
                    raise UserError(
                        f"{self.uri}: there is no such collection; make one with tools/index.py"
                    )
                notes = {} if model is None else {"model": dict(model)}
                milvus_table.make(link, json.dumps({"format": _FORMAT, "notes": notes}), dim)
            self._table = table = MilvusTable(link, "Strong" if write else "Bounded")
            check_model(self.uri, self.notes.get("model"), model)
            check_dim(self.uri, self.dim, dim)
            if write:
                put = partial(table.set_property, WRITER)
                self._lease = Lease(self.uri, partial(table.property, WRITER), put)
            table.load()
        except BaseException:
            self.close()
            raise

    @property
    def dim(self) -> int:
        return self._table.dim

    @property
    def notes(self) -> Mapping[str, Any]:
        return self._content()["notes"]

    def add(self, pictures: Sequence[Picture], vectors: Floats) -> None:
        assert vectors.shape == (len(pictures), self.dim), vectors.shape
        assert len({x.id for x in pictures}) == len(pictures)
        self._check_writable()
        self._table.upsert(pictures, vectors)

    def delete(self, ids: Sequence[str]) -> None:
        self._check_writable()
        self._table.delete(ids)

    def search(self, query: Floats, k: int, where: Filter = EVERYTHING) -> list[Hit]:
        found = self._nearest(query, k, where)
        pictures = self.get([id for id, _ in found])
        return [Hit(p, cosine) for p, (_, cosine) in zip(pictures, found) if p is not None]

    def ranking(
        self, query: Floats, k: int, where: Filter = EVERYTHING
    ) -> tuple[list[str], Floats]:
        found = self._nearest(query, k, where)
        return [id for id, _ in found], np.array([cosine for _, cosine in found], "float32")

    def count(self, where: Filter = EVERYTHING) -> int:
        return self._table.count(filters.milvus(where))

    def pictures(self, where: Filter = EVERYTHING) -> Iterator[Picture]:
        batches = self._table.batches(filters.milvus(where), COLUMNS)
        return (_picture(row) for batch in batches for row in batch)

    def get(self, ids: Sequence[str]) -> list[Picture | None]:
        found = {row["id"]: _picture(row) for row in self._table.rows(ids, COLUMNS)}
        return [found.get(id) for id in ids]

    def vectors(self, ids: Sequence[str]) -> Floats:
        return self._table.vectors(ids)

    def note(self, **values: Any) -> None:
        self._check_writable()
        content = self._content()
        notes = {**content["notes"], **values}
        notes = {name: value for name, value in notes.items() if value is not None}
        self._table.set_property(NOTES, json.dumps({**content, "notes": notes}))

    def optimize(self) -> Mapping[str, Any]:
        self._check_writable()
        self._table.flush()
        result: dict[str, Any] = {"index": None, "recall": 1.0, "rows": self.count()}
        if result["rows"] > recall.EXACT_UP_TO:
            self._table.renew_index("IVF_FLAT")
            result.update(index="IVF_FLAT", **self._table.measure())
        else:
            self._table.renew_index("FLAT")
        self.note(index=result)
        return result

    def close(self) -> None:
        try:
            if self._lease is not None:
                self._lease.release()
        finally:
            self._lease = None
            self._link.close()

    def _nearest(self, query: Floats, k: int, where: Filter) -> list[tuple[str, float]]:
        """Ids and cosines of the k nearest, in order.

        More are asked for until the last is farther away than the k-th: of those as far as the
        k-th, ids decide which are given. Where Milvus gives no more at once, those are asked for
        that are not nearer than the last.
        """
        assert query.shape == (self.dim,), query.shape
        cells = recall.cells_of(self.notes, bool(where) or k > recall.LONG, CELLS)
        found: dict[str, float] = {}
        limit, upper, condition = min(k + 1, MOST), None, filters.milvus(where)
        while k > 0:
            page = self._table.nearest(query, limit, condition, cells, upper)
            count = len(found)
            found.update(page)
            ordered = sorted(found.items(), key=lambda hit: (-hit[1], hit[0]))
            farther = len(found) > k and page[-1][1] < ordered[k - 1][1]
            if farther or len(page) < limit or len(found) == count:
                return ordered[:k]
            upper = page[-1][1] if limit == MOST else None
            limit = min(2 * limit, MOST)
        return []

    def _content(self) -> dict[str, Any]:
        content = json.loads(self._table.property(NOTES))
        check_format(self.uri, content.get("format"), _FORMAT)
        return content

    def _check_writable(self) -> None:
        assert self._lease is not None, "opened to read, or closed"
        self._lease.check()


def _picture(row: Mapping[str, Any]) -> Picture:
    values = {name: row[name] for name in COLUMNS}
    return Picture(**{**values, "tags": tuple(values["tags"])})
