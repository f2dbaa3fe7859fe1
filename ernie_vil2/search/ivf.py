"""The index of a large LanceDB table: made, kept up, and measured against an exact search.

IVF_FLAT: vectors in cells around centroids, of which a search reads the nearest so many. With all
cells it is exact. Rows that are younger than the index are searched one by one.

Distances are Euclidean, which order vectors of length 1 as cosines do: with products instead,
LanceDB's k-means was seen to put all vectors of 147 cells into the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Floats
from ernie_vil2.search import recall, rows

KIND = "IVF_FLAT"
ALL = 1 << 20  # cells: more than there are
METRIC = "l2"
DISTANCE = "_distance"  # squared: 2 - 2 * cosine
_CELL = 2048  # rows of a cell
_ROUNDS = 20  # of k-means
_BATCH = 8192  # rows read at a time


def renew(table: Any, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Make or keep up the index of a table, and find how many cells a search has to read.

    Args:
        earlier: what this has returned the last time; empty: there is none.

    Returns:
        "index": its kind; "made" and "rows": how many rows there were when it was made, and now;
        "cells" and "recall" of `recall.measure`.
    """
    count, made = table.count_rows(), earlier.get("made", 0)
    names = [x.name for x in table.list_indices() if x.columns == [rows.VECTOR]]
    there = any(table.index_stats(name).distance_type == METRIC for name in names)
    if not there or recall.outgrown(count, made):
        table.create_index(
            metric=METRIC,
            index_type=KIND,
            num_partitions=cells(count),
            max_iterations=_ROUNDS,
            vector_column_name=rows.VECTOR,
        )
        made = count
    drawn = _draw(table)
    found = recall.measure(drawn, partial(_tenth, table), partial(_cosines, table), cells(made))
    return {"index": KIND, "made": made, "rows": count, **found}


def cells(count: int) -> int:
    """Of an index that is made for so many rows."""
    return max(1, count // _CELL)


def cosines(found: Any) -> Array:
    """float32 [K] of a pyarrow.Table of hits, which has their distances."""
    return 1 - found.column(DISTANCE).to_numpy() / 2


def _draw(table: Any) -> Floats:
    """Vectors that are there; the same ones for the same table."""
    places = table.search().select(["_rowid"]).with_row_id(True).to_arrow().column("_rowid")
    number = min(recall.DRAWN, len(places))
    drawn = np.random.default_rng(0).choice(places.to_numpy(), number, replace=False)
    taken = table.take_row_ids([int(x) for x in drawn]).select([rows.VECTOR]).to_arrow()
    return rows.to_vectors(taken)


def _tenth(table: Any, queries: Floats) -> Array:
    """The cosine of each query's exact tenth, by products with all vectors, block by block."""
    best = np.full([len(queries), recall.K], -np.inf, "float32")
    for batch in table.search().select([rows.VECTOR]).to_batches(_BATCH):
        scores = np.concatenate([best, queries @ rows.to_vectors(batch).T], axis=1)
        best = np.partition(scores, scores.shape[1] - recall.K, axis=1)[:, -recall.K :]
    return best.min(axis=1)


def _cosines(table: Any, query: Floats, cells: int) -> Array:
    search = table.search(query).distance_type(METRIC).nprobes(cells).limit(recall.K)
    return cosines(search.select([DISTANCE]).to_arrow())
