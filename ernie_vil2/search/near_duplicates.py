"""Near-duplicates: pictures that are the same to the eye, smaller, re-encoded or a little cut.

Two signs have to agree. The difference hash (dHash: of 9 x 8 grey pixels, whether each is brighter
than its left neighbour) sees composition and nothing else, the model's vector sees content and
little composition: pictures of two cats may have one vector, and two plain ones one hash.

Of 150 photographs of the grocery set, copies in JPEG at quality 30, halved, at a quarter of the
size and quality 60, and without 1 % of each edge differ from their originals in at most 6 bits (99
% of them or more), those without 2 % in 92 %; of two different ones the nearest differ in 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ernie_vil2.data.arrays import Floats, Numbers
from ernie_vil2.data.close_hashes import close_pairs

BITS = 6  # in which the hashes differ at most
COSINE = 0.97  # of the vectors, at least
_COMPARED = 2000  # pairs, or pictures of one hash, whose vectors are in memory at once

VectorsOf = Callable[[Numbers], Floats]  # of pictures by their places: float32 [N, D]


def groups(hashes: Numbers, vectors_of: VectorsOf) -> list[Numbers]:
    """Places of pictures that near-duplication joins, two or more in a group.

    A chain of pictures, each a near-duplicate of the next, is one group. Pictures with one hash are
    compared with the first of their kind, and those firsts with the pictures of other hashes, so
    that a thousand blank pages are not a million pairs.

    Args:
        hashes: int64 [N].
        vectors_of: called for few of them at a time.
    """
    parent = np.arange(len(hashes))
    leaders = _join_equal(hashes, vectors_of, parent)
    pairs = leaders[close_pairs(hashes[leaders], BITS)]
    for start in range(0, len(pairs), _COMPARED):
        some = pairs[start : start + _COMPARED]
        places, back = np.unique(some, return_inverse=True)
        one, other = vectors_of(places)[back.reshape(-1, 2).T]
        for i, j in some[np.einsum("nd,nd->n", one, other) >= COSINE].tolist():
            parent[_root(parent, j)] = _root(parent, i)
    roots = np.array([_root(parent, place) for place in range(len(parent))], np.int64)
    order = np.argsort(roots, kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
    return [group for group in found if len(group) > 1]


def _join_equal(hashes: Numbers, vectors_of: VectorsOf, parent: Numbers) -> Numbers:
    """Join pictures of one hash to the first that they are near to; returns the firsts."""
    order = np.argsort(hashes, kind="stable")
    alike = np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1)
    leaders = [int(places[0]) for places in alike if len(places) == 1]
    for batch in _batches([places for places in alike if len(places) > 1]):
        vectors = vectors_of(np.concatenate(batch))
        for places, own in zip(batch, np.split(vectors, np.cumsum([*map(len, batch)])[:-1])):
            while len(places):
                leaders.append(int(places[0]))
                near = own @ own[0] >= COSINE
                near[0] = True  # its norm is not 1 to the last digit
                parent[places[near]] = places[0]
                places, own = places[~near], own[~near]
    return np.sort(np.array(leaders, np.int64))


def _batches(parts: list[Numbers]) -> Iterator[list[Numbers]]:
    """Parts, together as many as are compared at once."""
    batch: list[Numbers] = []
    for part in parts:
        batch.append(part)
        if sum(map(len, batch)) >= _COMPARED:
            yield batch
            batch = []
    if batch:
        yield batch


def _root(parent: Numbers, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return int(place)
