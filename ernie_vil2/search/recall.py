"""How much of a collection an index has to read, measured on the collection itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Floats

EXACT_UP_TO = 200_000  # pictures; an index beyond
LONG = 1000  # hits of a search from which on all cells of an index are read
GROWN = 1.5  # times the pictures that an index was made for, at which it is made anew
K = 10
DRAWN = 256  # pictures that queries are made of
TARGET = 0.99  # recall@10 against exact
_FIRST = 8  # cells that are tried first
_ROUNDING = 1e-6  # of a cosine in float32

Search = Callable[[Floats, int], Array]  # a query and how many cells -> cosines of the K nearest


def measure(drawn: Floats, tenth: Callable[[Floats], Array], search: Search, most: int) -> dict:
    """The smallest number of cells, doubled from 8, at which recall@10 reaches TARGET.

    Asked are pictures that are there, and points between two of them, which lie apart from all as
    the embedding of a text does; of the two recalls the lower counts.

    Args:
        drawn: vectors of the collection, [N, D].
        tenth: gives the cosines of queries' exact tenth hits, float32 [Q].
        most: cells there are; so many are taken at last.

    Returns:
        "cells" and "recall".
    """
    half = len(drawn) // 2
    between = drawn[:half] + drawn[len(drawn) - half :]
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-12)
    kinds = [(queries, tenth(queries)) for queries in (drawn[:half], between)]
    cells = min(_FIRST, most)
    while True:
        recall = min(_recall(search, cells, *kind, may_stop=cells < most) for kind in kinds)
        if recall >= TARGET or cells >= most:
            return {"cells": cells, "recall": recall}
        cells = min(2 * cells, most)


def outgrown(count: int, made: int) -> bool:
    """Whether an index that was made for `made` pictures is to be made anew for `count`."""
    return not made / GROWN <= count <= made * GROWN


def cells_of(notes: Mapping[str, Any], whole: bool, most: int) -> int:
    """How many cells a search reads: what was measured, or all for a `whole` one."""
    return most if whole else int(notes.get("index", {}).get("cells", most))


def _recall(search: Search, cells: int, queries: Floats, bounds: Array, may_stop: bool) -> float:
    """recall@K, of the first queries alone where the others cannot bring it up to TARGET."""
    missing, most = 0.0, (1 - TARGET) * len(queries)
    for number, (query, bound) in enumerate(zip(queries, bounds), 1):
        missing += 1 - _share(search(query, cells), bound)
        if may_stop and missing > most:
            return 1 - missing / number
    return 1 - missing / len(queries)


def _share(found: Array, bound: float) -> float:
    return float((found >= bound - _ROUNDING).sum()) / K
