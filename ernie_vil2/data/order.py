"""Which records a step reads: an endless stream of epochs, cut into batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.errors import UserError


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


class GlobalBatches(Sequence[list[tuple[int, int, int]]]):
    """This rank's share of the global batches first_batch to last_batch - 1, in micro-batches.

    The records are an endless stream, epoch after epoch, each epoch every record once and in an
    order of its own. Global batch b is the stream's records from b * G on, G = batch_size *
    world_size, of which each rank has batch_size in a row: a function of seed, epoch and position
    alone, the same for any number of processes with the same G. A batch may straddle two epochs,
    so no record is left out.

    A batch's number is its position in the data, not the optimizer's step: a run may skip some.

    As a sequence: one list of (batch, place, index) per micro-batch, in order; place is the
    record's row in the global batch, index its number in the data set.

    Args:
        size: records of the data set.
        batch_size: records of a global batch for each rank.
        seed: of the order of every epoch.
        shuffle: False: each epoch reads the records in their own order.
        first_batch: the first global batch of this run.
        last_batch: the one after the last.
        micro_batch_size: records of a micro-batch; at a batch's end a smaller one takes the rest.
            None, or not below batch_size: one micro-batch a batch.

    Raises:
        UserError: the set has fewer records than a global batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        shuffle: bool,
        first_batch: int,
        last_batch: int,
        micro_batch_size: int | None = None,
    ):
        self.size, self.batch_size = size, batch_size
        self.global_batch = batch_size * world_size
        self.offset = batch_size * rank
        self.seed, self.shuffle = seed, shuffle
        self.first_batch, self.last_batch = first_batch, max(first_batch, last_batch)
        self.micro_batch_size = min(micro_batch_size or batch_size, batch_size)
        if size < self.global_batch:
            raise UserError(
                f"the training set has {size} records, a global batch {self.global_batch} "
                f"({batch_size} x {world_size} processes): lower DataLoader.Train.batch_size"
            )

    @property
    def batches_per_epoch(self) -> float:
        return self.size / self.global_batch

    @property
    def micro_offsets(self) -> list[int]:
        """Where each of this rank's micro-batches begins in the global batch."""
        return [self.offset + row for row in range(0, self.batch_size, self.micro_batch_size)]

    def indices(self, batch: int, first: int = 0, last: int | None = None) -> Numbers:
        """The records of this rank's rows first to last - 1 of `batch`; int64 [B] for all rows."""
        rows = np.arange(first, self.batch_size if last is None else last)
        epochs, places = np.divmod(batch * self.global_batch + self.offset + rows, self.size)
        if not self.shuffle:
            return places
        for epoch in np.unique(epochs):
            seed = np.random.SeedSequence([self.seed, int(epoch)]).generate_state(1)[0]
            mine = epochs == epoch
            places[mine] = permute(places[mine], self.size, int(seed))
        return places

    def __len__(self) -> int:
        return (self.last_batch - self.first_batch) * len(self.micro_offsets)

    def __getitem__(  # type: ignore[override]  # no slices
        self, number: int
    ) -> list[tuple[int, int, int]]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        batch, micro = divmod(number, len(self.micro_offsets))
        batch += self.first_batch
        first = micro * self.micro_batch_size
        last = min(first + self.micro_batch_size, self.batch_size)
        return [
            (batch, self.offset + row, int(index))
            for row, index in zip(range(first, last), self.indices(batch, first, last))
        ]
