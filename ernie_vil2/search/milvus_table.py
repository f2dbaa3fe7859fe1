"""A collection of Milvus as a table: made, asked, changed, indexed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Floats
from ernie_vil2.errors import UserError
from ernie_vil2.search import recall
from ernie_vil2.search.collection import COLUMNS, Picture
from ernie_vil2.search.milvus_link import Link

MOST = 16384  # hits that Milvus gives at once
CELLS = 1024  # of the index of each segment, which holds about 170,000 vectors of 768 numbers
NOTES, WRITER = "ernie_vil2.notes", "ernie_vil2.writer"  # properties of the collection
BATCH = 1000  # pictures of one message
_VECTOR = "vector"
_INDEX_TIME = 24 * 3600  # seconds
_LOAD_TIME = 600
_FLUSH_TIME = 20
# Milvus asks for bounds: bytes of strings, tags of a picture
_LONGEST = {"id": 64, "path": 16384, "sha256": 64}
_TAGS = {"max_capacity": 1024, "max_length": 1024}


class MilvusTable:
    """The collection that `link` names, which has to be there.

    Args:
        level: how recent what is read has to be, as Milvus calls it.
    """

    def __init__(self, link: Link, level: str):
        self._link, self._level = link, level
        self._collection = link.ask(link.api.Collection, link.name, using=link.alias)
        if not self.property(NOTES):
            raise UserError(f"{link.uri} is a collection of another program: name another one")
        self.dim = int(self._collection.schema.fields[-1].params["dim"])

    def load(self) -> None:
        """See that it has an index and is in the server's memory; nothing to do, mostly."""
        if not self._link.ask(self._collection.has_index):
            self._make_index("FLAT", {})
        self._link.call(partial(self._collection.load, timeout=_LOAD_TIME))

    # -- properties --------------------------------------------------------------------------------

    def property(self, name: str) -> str:
        """ "" where there is none."""
        return self._link.ask(self._collection.describe)["properties"].get(name, "")

    def set_property(self, name: str, value: str) -> None:
        self._link.ask(self._collection.set_properties, {name: value})

    # -- rows --------------------------------------------------------------------------------------

    def upsert(self, pictures: Sequence[Picture], vectors: Floats) -> None:
        for start in range(0, len(pictures), BATCH):
            some = pictures[start : start + BATCH]
            columns: list[Any] = [[getattr(x, name) for x in some] for name in COLUMNS]
            columns[-1] = [list(tags) for tags in columns[-1]]
            columns.append(np.asarray(vectors[start : start + BATCH], "float32"))
            self._link.ask(self._collection.upsert, columns)

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), BATCH):
            self._link.ask(self._collection.delete, _of(ids[start : start + BATCH]))

    def count(self, condition: str) -> int:
        return int(self._query(condition, ["count(*)"], "Strong")[0]["count(*)"])

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Of those that are there, in no order."""
        for start in range(0, len(ids), BATCH):
            yield from self._query(_of(ids[start : start + BATCH]), columns, self._level)

    def vectors(self, ids: Sequence[str]) -> Floats:
        found = {row["id"]: row[_VECTOR] for row in self.rows(ids, ["id", _VECTOR])}
        return np.array([found[id] for id in ids], "float32").reshape(len(ids), self.dim)

    def batches(self, condition: str, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """All rows that pass, by their ids."""
        rows = self._link.call(
            lambda: self._collection.query_iterator(
                batch_size=BATCH,
                expr=condition or 'id != ""',
                output_fields=list(columns),
                consistency_level="Strong",
            )
        )
        while batch := self._link.call(rows.next):
            yield batch

    def nearest(
        self, query: Floats, limit: int, condition: str, cells: int, upper: float | None = None
    ) -> list[tuple[str, float]]:
        """Ids and cosines of the `limit` nearest, of those that are not nearer than `upper`."""
        parameters: dict[str, Any] = {"nprobe": cells}
        if upper is not None:
            parameters.update(radius=-2.0, range_filter=upper)
        [found] = self._link.ask(
            self._collection.search,
            [np.asarray(query, "float32")],
            _VECTOR,
            {"metric_type": "IP", "params": parameters},
            limit,
            expr=condition or None,
            consistency_level=self._level,
        )
        return list(zip(found.ids, found.distances))

    def _query(self, condition: str, columns: Sequence[str], level: str) -> list[dict[str, Any]]:
        return self._link.ask(
            self._collection.query, condition, output_fields=list(columns), consistency_level=level
        )

    # -- the index ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Let what was written lately become segments, which are indexed.

        After a crash of the server that may take minutes, or never be told. Nothing is lost
        without: rows in no segment are searched one by one, and the server flushes by itself.
        """

        def flush() -> None:
            try:
                self._collection.flush(timeout=_FLUSH_TIME)
            except self._link.api.MilvusException as error:
                if "wait for flush timeout" not in error.message:
                    raise

        self._link.call(flush)

    def renew_index(self, kind: str) -> None:
        """See that the index is FLAT or IVF_FLAT. To change it takes it out of memory."""
        wanted = {"nlist": CELLS} if kind == "IVF_FLAT" else {}
        if self._link.ask(self._collection.index).params["index_type"] != kind:
            self._link.ask(self._collection.release)
            self._link.ask(self._collection.drop_index)
            self._make_index(kind, wanted)
            self._link.call(partial(self._collection.load, timeout=_INDEX_TIME))
        self._link.call(
            partial(
                self._link.api.utility.wait_for_index_building_complete,
                self._link.name,
                timeout=_INDEX_TIME,
                using=self._link.alias,
            )
        )

    def measure(self) -> dict[str, Any]:
        """`recall.measure` of the index, against a search of all its cells."""
        ids = []
        for batch in self.batches("", ["id"]):
            ids += [row["id"] for row in batch]
            if len(ids) > 100 * recall.DRAWN:
                break
        drawn = np.random.default_rng(0).choice(ids, min(recall.DRAWN, len(ids)), replace=False)

        def cosines(query: Floats, cells: int) -> Array:
            return np.array([x for _, x in self.nearest(query, recall.K, "", cells)])

        def tenth(queries: Floats) -> Array:
            return np.array([cosines(query, CELLS).min() for query in queries])

        return recall.measure(self.vectors(drawn.tolist()), tenth, cosines, CELLS)

    def _make_index(self, kind: str, parameters: Mapping[str, Any]) -> None:
        index = {"index_type": kind, "metric_type": "IP", "params": parameters}
        self._link.ask(self._collection.create_index, _VECTOR, index)


def make(link: Link, notes: str, dim: int) -> None:
    """Make the collection, with its notes."""
    api = link.api
    kinds = dict.fromkeys(_LONGEST, api.DataType.VARCHAR)
    columns = [
        api.FieldSchema(
            name,
            kinds.get(name, api.DataType.INT64),
            is_primary=name == "id",
            **({"max_length": _LONGEST[name]} if name in _LONGEST else {}),
        )
        for name in COLUMNS[:-1]
    ]
    columns.append(
        api.FieldSchema("tags", api.DataType.ARRAY, element_type=api.DataType.VARCHAR, **_TAGS)
    )
    columns.append(api.FieldSchema(_VECTOR, api.DataType.FLOAT_VECTOR, dim=dim))
    link.ask(
        api.Collection,
        link.name,
        api.CollectionSchema(columns),
        using=link.alias,
        properties={NOTES: notes},
    )


def _of(ids: Sequence[str]) -> str:
    return f"id in {json.dumps(list(ids))}"
