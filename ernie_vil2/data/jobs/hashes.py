"""Which records are the same: by the hash of what they hold, and by how their pictures look.

All work is on arrays of numbers, a part of the hashes at a time, so that 10^8 records need no more
than a few GB. The first by its number stays, whatever process has hashed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.arrays import Numbers, Pixels
from ernie_vil2.data.close_hashes import close_pairs

Hashes = NDArray[np.uint64]
_PART = 1 << 24  # records whose hashes are sorted at a time, 1.5 GB
MAX_NEAR = 15  # bits; more takes long, and makes unlike pictures near


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

    Exact. In the order of their numbers, each record is dropped that is near to one which was not;
    so none is dropped only for being near to one that is not there.

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
    pairs = close_pairs(values.view(np.int64), bits)
    for one, other in pairs[np.argsort(pairs[:, 1], kind="stable")].tolist():
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
