"""In which order a data set's records are read: from a position in an endless stream to a record.

An order is a pure function of its seed and the position, so a run can begin anywhere in it, and any
number of processes and workers find the same records.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.arrays import Numbers


class Order(Protocol):
    """What record stands at a position of a stream that never ends, epoch after epoch.

    Attributes:
        size: positions of an epoch.
    """

    size: int

    def __call__(self, positions: Numbers) -> Numbers:
        """Records' numbers in the data set; int64 [B] from 0 on in, int64 [B] out."""
        ...


class EpochOrder:
    """Each epoch every record once, in an order of its own.

    Args:
        size: records of the data set.
        seed: of the order of every epoch.
        shuffle: False: each epoch reads the records in their own order.
    """

    def __init__(self, size: int, seed: int, shuffle: bool):
        self.size, self.seed, self.shuffle = size, seed, shuffle

    def __call__(self, positions: Numbers) -> Numbers:
        epochs, places = np.divmod(positions, self.size)
        if not self.shuffle:
            return places
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            places[mine] = permute(places[mine], self.size, epoch_seed(self.seed, int(epoch)))
        return places


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of the order of `epoch`."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _mix(x: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of x changes every other."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(salt)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permute(positions: Numbers, size: int, seed: int) -> Numbers:
    """Where a pseudo-random permutation of range(size) sends `positions`; int64 in, int64 out.

    A four-round Feistel network over the next power of four, walked until it lands in range: no
    table of the set's size is held, and any position is found at once, as a resume needs.
    """
    if size <= 1:
        return np.zeros_like(positions, dtype=np.int64)
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = _mix(np.arange(4, dtype=np.uint64), (seed * 0x9E3779B97F4A7C15) % 2**64)

    def network(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> half, x & low
        for k in keys:
            left, right = right, left ^ (_mix(right, int(k)) & low)
        return (left << half) | right

    result = network(positions.astype(np.uint64))
    while (outside := result >= size).any():
        result[outside] = network(result[outside])
    return result.astype(np.int64)
