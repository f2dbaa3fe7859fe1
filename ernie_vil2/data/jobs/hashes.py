"""Which records are the same: by the hash of what they hold, and by how their pictures look.

All work is on arrays of numbers, a part of the hashes at a time, so that 10^8 records need no more
than a few GB. The first by its number stays, whatever process has hashed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.arrays import Numbers, Pixels

Hashes = NDArray[np.uint64]
_PART = 1 << 24  # records whose hashes are sorted at a time, 1.5 GB
MAX_NEAR = 15  # bits; more makes bands of less than 4 bits, and unlike pictures near


def digest(*parts: bytes) -> bytes:
    """128 bits that stand for the parts; a pair of 10^9 records meets by chance once in 10^20."""
    result = hashlib.blake2b(digest_size=16)
    for part in parts:
        result.update(len(part).to_bytes(8, "little"))
        result.update(part)
    return result.digest()


def first_of_each(
    blocks: Callable[[], Iterable[tuple[Numbers, Hashes]]], size: int, part: int = _PART
) -> Numbers:
    """For each record the number of the first with the same hash: itself where it is the first.

    Args:
        blocks: gives (numbers [n], hashes uint64 [n, 2]) of all records that have a hash; called
            once for each part.
        size: records; those in no block are their own first.
        part: records at a time, about.

    Returns:
        int64 [size].
    """
    first: Numbers = np.arange(size, dtype=np.int64)
    parts = -(-size // part)
    for which in range(parts):
        found = [(n[h[:, 0] % parts == which], h[h[:, 0] % parts == which]) for n, h in blocks()]
        if not found:
            continue
        numbers = np.concatenate([n for n, _ in found])
        hashes = np.concatenate([h for _, h in found])
        order = np.lexsort((numbers, hashes[:, 1], hashes[:, 0]))
        numbers, hashes = numbers[order], hashes[order]
        starts = np.ones(len(numbers), bool)
        starts[1:] = (hashes[1:] != hashes[:-1]).any(axis=1)
        first[numbers] = numbers[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    return first


# -- How pictures look -----------------------------------------------------------------------------


def difference_hash(image: Pixels) -> int:
    """64 bits that change little where a picture is scaled, compressed anew or made brighter.

    dHash as Neal Krawetz gives it ("Kind of Like That", hackerfactor.com, 2013): the picture in
    grey and shrunk to 9 x 8; each bit says whether a pixel is darker than its right neighbour.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big")


def near_duplicates(numbers: Numbers, hashes: Hashes, bits: int) -> dict[int, int]:
    """Records that look like an earlier one which stays, by a hash of at most `bits` other bits.

    Exact: two hashes that differ in k bits are equal in one of k + 1 bands at least, so only those
    that share a band are compared (Manku, Jain, Das Sarma: Detecting Near-Duplicates for Web
    Crawling, WWW 2007). In the order of their numbers, each record is dropped that is near to one
    which was not; so none is dropped only for being near to one that is not there.

    Args:
        numbers: int64 [n], rising.
        hashes: uint64 [n].

    Returns:
        Number of each that is dropped -> of the first record that it is near to.
    """
    values, first, member = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # equal hashes stand or fall with their first
    values = values[order]
    near: dict[int, int] = {}
    for one, other in _near_pairs(values, bits).tolist():  # sorted by the later one
        if one not in near and other not in near:
            near[other] = one
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    dropped = {}
    for number, which in zip(numbers.tolist(), rank[member].tolist()):
        kept = near.get(which, which)
        representative = int(numbers[first[order[kept]]])
        if representative != number:
            dropped[number] = representative
    return dropped


def _near_pairs(values: Hashes, bits: int) -> NDArray[Any]:
    """Pairs (i, j), i < j, of values that differ in at most `bits` bits, by j and then i."""
    edges = np.linspace(0, 64, bits + 2).astype(int)
    found = [np.zeros((0, 2), np.int64)]
    for low, high in zip(edges, edges[1:]):
        band = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        band, sorted_values = band[order], values[order]
        at, step = np.arange(len(order)), 1
        while True:  # each with the next but `step` in its band
            at = at[at + step < len(order)]
            at = at[band[at] == band[at + step]]
            if not at.size:
                break
            near = at[_ones(sorted_values[at] ^ sorted_values[at + step]) <= bits]
            found.append(np.stack([order[near], order[near + step]], axis=1))
            step += 1
    pairs = np.unique(np.concatenate(found)[:, ::-1], axis=0)[:, ::-1]
    return pairs


def _ones(values: Hashes) -> NDArray[np.uint64]:
    """How many bits are set, 64 values of one bit added in pairs (Hacker's Delight, 5-1)."""
    m1, m2, m4 = (
        np.uint64(m) for m in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
    )
    values = values - ((values >> np.uint64(1)) & m1)
    values = (values & m2) + ((values >> np.uint64(2)) & m2)
    values = (values + (values >> np.uint64(4))) & m4
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
