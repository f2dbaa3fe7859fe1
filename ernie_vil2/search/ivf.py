"""The index of a large LanceDB table: made, kept up, and measured against an exact search.

IVF_FLAT: vectors in cells around centroids, of which a search reads the nearest so many. With all
cells it is exact. Rows that are younger than the index are searched one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Floats
from ernie_vil2.search import rows

KIND = "IVF_FLAT"
ALL = 1 << 20  # cells: more than there are
TARGET = 0.99  # recall@10 against exact
DISTANCE = "_distance"  # 1 - cosine
_K = 10
_QUERIES = 64  # of each kind
_FIRST = 8  # cells that are tried first
_CELL = 2048  # rows of a cell
_ROUNDS = 20  # of k-means
_BATCH = 8192  # rows read at a time
_GROWN = 1.5  # times the rows that it was made for, at which it is made anew
_ROUNDING = 1e-6  # of a cosine in float32


def renew(table: Any, dim: int, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Make or keep up the index of a table, and find how many cells a search has to read.

    Args:
        earlier: what this has returned the last time; empty: there is none.

    Returns:
        "index": its kind; "made" and "rows": how many rows there were when it was made, and now;
        "cells": to read for "recall", the lower of those of pictures that are there and of points
        between two of them, which lie apart from all as a text's embedding does.
    """
    count, made = table.count_rows(), earlier.get("made", 0)
    if not exists(table) or not made / _GROWN <= count <= made * _GROWN:
        table.create_index(
            metric="dot",
            index_type=KIND,
            num_partitions=max(1, count // _CELL),
            max_iterations=_ROUNDS,
            vector_column_name=rows.VECTOR,
        )
        made = count
    return {"index": KIND, "made": made, "rows": count, **_measure(table, dim)}


def exists(table: Any) -> bool:
    return any(x.columns == [rows.VECTOR] for x in table.list_indices())


def _measure(table: Any, dim: int) -> dict[str, Any]:
    """The smallest number of cells, doubled from _FIRST, at which recall is high enough."""
    kinds = _queries(table, dim)
    worst = {name: _tenth(table, queries) for name, queries in kinds.items()}
    cells = _FIRST
    while True:
        recall = min(_recall(table, kinds[name], worst[name], cells) for name in kinds)
        if recall >= TARGET or cells >= ALL:
            return {"cells": cells, "recall": recall}
        cells *= 2


def _queries(table: Any, dim: int) -> dict[str, Floats]:
    """Vectors that are there, and points between them; the same ones for the same table."""
    places = table.search().select(["_rowid"]).with_row_id(True).to_arrow().column("_rowid")
    rng = np.random.default_rng(0)
    drawn = rng.choice(places.to_numpy(), min(2 * _QUERIES, len(places)), replace=False)
    taken = table.take_row_ids([int(x) for x in drawn]).select([rows.VECTOR]).to_arrow()
    vectors = rows.to_vectors(taken)
    between = vectors[: len(vectors) // 2] + vectors[len(vectors) - len(vectors) // 2 :]
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-12)
    return {"pictures": vectors[:_QUERIES], "between": between}


def _tenth(table: Any, queries: Floats) -> Array:
    """The cosine of each query's exact _K-th, by products with all vectors, block by block."""
    best = np.full([len(queries), _K], -np.inf, "float32")
    for batch in table.search().select([rows.VECTOR]).to_batches(_BATCH):
        scores = np.concatenate([best, queries @ rows.to_vectors(batch).T], axis=1)
        best = np.partition(scores, scores.shape[1] - _K, axis=1)[:, -_K:]
    return best.min(axis=1)


def _recall(table: Any, queries: Floats, worst: Array, cells: int) -> float:
    """The share of the exact nearest _K that a search of so many cells finds."""
    found = 0
    for query, bound in zip(queries, worst):
        search = table.search(query).distance_type("dot").nprobes(cells).limit(_K)
        distances = search.select([DISTANCE]).to_arrow().column(DISTANCE).to_numpy()
        found += int((1 - distances >= bound - _ROUNDING).sum())
    return found / (_K * len(queries))
