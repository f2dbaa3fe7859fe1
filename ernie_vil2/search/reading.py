"""Reading from a collection that another process may be changing."""

from __future__ import annotations

from collections.abc import Sequence

from ernie_vil2.data.arrays import Floats
from ernie_vil2.search.collection import Collection


def vectors_of(collection: Collection, ids: Sequence[str]) -> tuple[list[str], Floats]:
    """Those of the ids that are there now, and their vectors, float32 [N, D]."""
    there = list(ids)
    while True:
        try:
            return there, collection.vectors(there)
        except KeyError:  # deleted meanwhile
            there = [id for id, found in zip(there, collection.get(there)) if found is not None]
