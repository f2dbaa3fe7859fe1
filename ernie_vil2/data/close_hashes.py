"""Hashes of 64 bits that differ in few of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ernie_vil2.data.arrays import Numbers

# A band has every fourth bit, and not 16 neighbours: the plain edge that many pictures have would
# make such a band the same for all of them.
_BANDS, _BAND_BITS = 4, 16
_BLOCK = 1 << 20  # pairs looked at at once
_ONES = np.array([bin(word).count("1") for word in range(1 << 16)], np.uint8)


def hamming(one: Numbers, other: Numbers) -> Numbers:
    """Bits in which int64 hashes differ; shapes are broadcast."""
    differing = np.bitwise_xor(one, other)
    return _ONES[differing[..., None].view(np.uint16)].sum(-1, dtype=np.int64)


def close_pairs(hashes: Numbers, bits: int) -> Numbers:
    """All pairs i < j of hashes, int64 [N], that differ in at most `bits` bits.

    Exact: cut into 4 bands, two such hashes differ in at most `bits` // 4 bits of one band at
    least, so only those that meet there are compared: multi-index hashing (Norouzi, Punjani, Fleet:
    Fast Search in Hamming Space with Multi-Index Hashing, CVPR 2012).

    Returns:
        int64 [P, 2], sorted.
    """
    masks = np.flatnonzero(bits // _BANDS >= _ONES)
    found = [np.empty([0, 2], np.int64)]
    for keys in _bands(hashes):
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << _BAND_BITS) + 1))
        for mask in masks:
            for one, other in _matches(order, starts, keys ^ mask):
                close = hamming(hashes[one], hashes[other]) <= bits
                found.append(np.stack([one[close], other[close]], 1))
    return np.unique(np.concatenate(found), axis=0)


class CloseHashes:
    """Hashes that come one after the other, and which of those before each is close to.

    Args:
        bits: in which close ones differ at most.
    """

    def __init__(self, bits: int):
        self._bits, self._masks = bits, np.flatnonzero(bits // _BANDS >= _ONES)
        self._hashes = np.empty([0], np.int64)
        self._places: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]

    def add(self, hashes: Numbers) -> None:
        """int64 [N]; the first of all has place 0."""
        for places, keys in zip(self._places, _bands(hashes)):
            for place, key in enumerate(keys.tolist(), len(self._hashes)):
                places.setdefault(key, []).append(place)
        self._hashes = np.concatenate([self._hashes, hashes])

    def pairs(self, hashes: Numbers) -> Numbers:
        """Each i of `hashes` with the places that it is close to: int64 [P, 2], sorted."""
        found = [np.empty([0, 2], np.int64)]
        for places, keys in zip(self._places, _bands(hashes)):
            met = [
                (i, place)
                for i, wanted in enumerate((keys[:, None] ^ self._masks).tolist())
                for key in wanted
                if key in places
                for place in places[key]
            ]
            if met:
                one, other = np.array(met).T
                close = hamming(hashes[one], self._hashes[other]) <= self._bits
                found.append(np.stack([one[close], other[close]], 1))
        return np.unique(np.concatenate(found), axis=0)


def _bands(hashes: Numbers) -> Iterator[Numbers]:
    """Of each hash every fourth bit, from each of the first four on: 0 to 65535."""
    for band in range(_BANDS):
        keys = np.zeros(len(hashes), np.int64)
        for bit in range(_BAND_BITS):
            keys |= ((hashes >> (band + _BANDS * bit)) & 1) << bit
        yield keys


def _matches(order: Numbers, starts: Numbers, wanted: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Each i with all j > i whose key is wanted[i], in blocks.

    Args:
        order: places, sorted by their keys.
        starts: key -> where it begins in `order`.
    """
    low, count = starts[wanted], starts[wanted + 1] - starts[wanted]
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        before = ends[start] - count[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
        one = np.repeat(np.arange(start, stop), count[start:stop])
        skipped = np.repeat(ends[start:stop] - count[start:stop], count[start:stop])
        other = order[low[one] + np.arange(before, before + len(one)) - skipped]
        later = other > one
        yield one[later], other[later]
        start = stop
