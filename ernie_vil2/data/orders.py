"""In which order a data set's records are read: from a position in an endless stream to a record.

An order is a pure function of its seed and the position, so a run can begin anywhere in it, and any
number of processes and workers find the same records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.arrays import Numbers

# As the configuration has it: whether, or {"mode": "global" or "shards", "window": shards}.
Shuffle = Union[bool, Mapping[str, Any]]


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


class ShardOrder:
    """Each epoch every record once, few shards at a time.

    An epoch permutes the shards, cuts them into windows of `window` shards, and permutes the
    records of each window among themselves. So only the shards of one window, at its end those of
    two, are read at a time; two records of one shard are never further apart than a window is long.

    Args:
        lengths: records of each shard, which stand in the data set in this order; int64 [S].
        window: shards whose records are mixed.
        seed: of the order of every epoch.
    """

    def __init__(self, lengths: Numbers, window: int, seed: int):
        lengths = np.asarray(lengths, np.int64)
        ends = np.cumsum(lengths)
        self.size = int(ends[-1])
        self._window, self._seed = window, seed
        filled = lengths > 0  # an empty shard takes no place in a window
        self._lengths, self._starts = lengths[filled], (ends - lengths)[filled]
        # the last two, as batches straddle: shards, and where each and each window ends
        self._epochs: dict[int, tuple[Numbers, Numbers, Numbers]] = {}

    def __call__(self, positions: Numbers) -> Numbers:
        epochs, places = np.divmod(positions, self.size)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            places[mine] = self._records(places[mine], int(epoch))
        return places

    def _shards(self, epoch: int) -> tuple[Numbers, Numbers, Numbers]:
        """The shards in the order of `epoch`, and where each and each window ends in it."""
        found = self._epochs.get(epoch)
        if found is None:
            count = len(self._lengths)
            shards = permute(np.arange(count), count, epoch_seed(self._seed, epoch))
            ends = np.cumsum(self._lengths[shards])
            found = shards, ends, np.append(ends[self._window - 1 : -1 : self._window], ends[-1:])
            latest = list(self._epochs.items())[-1:]
            self._epochs = dict([*latest, (epoch, found)])
        return found

    def _records(self, places: Numbers, epoch: int) -> Numbers:
        """Of the places in an epoch; int64 [B] both."""
        shards, ends, window_ends = self._shards(epoch)
        windows = np.searchsorted(window_ends, places, side="right")
        mixed = np.empty_like(places)
        for window in np.unique(windows):
            mine = windows == window
            start = int(window_ends[window - 1]) if window else 0
            size = int(window_ends[window]) - start
            seed = epoch_seed(self._seed, epoch, 1 + int(window))
            mixed[mine] = start + permute(places[mine] - start, size, seed)
        at = np.searchsorted(ends, mixed, side="right")
        shard = shards[at]
        return self._starts[shard] + mixed - (ends[at] - self._lengths[shard])


def epoch_seed(seed: int, epoch: int, *part: int) -> int:
    """The seed of the order of `epoch`, or of a part of it: a number from 1."""
    return int(np.random.SeedSequence([seed, epoch, *part]).generate_state(1)[0])


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
