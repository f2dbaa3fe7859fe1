"""Which records a step reads: an endless stream of epochs, cut into batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.orders import Order
from ernie_vil2.errors import UserError


class GlobalBatches(Sequence[list[tuple[int, int, int]]]):
    """This rank's share of the global batches first_batch to last_batch - 1, in micro-batches.

    The records are an endless stream, in the order of `order`. Global batch b is the stream's
    records from b * G on, G = batch_size * world_size, of which each rank has batch_size in a row:
    a function of the position alone, the same for any number of processes with the same G. A batch
    may straddle two epochs, so no record is left out.

    A batch's number is its position in the data, not the optimizer's step: a run may skip some.

    As a sequence: one list of (batch, place, index) per micro-batch, in order; place is the
    record's row in the global batch, index its number in the data set.

    Args:
        order: of the data set's records.
        batch_size: records of a global batch for each rank.
        first_batch: the first global batch of this run.
        last_batch: the one after the last.
        micro_batch_size: records of a micro-batch; at a batch's end a smaller one takes the rest.
            None, or not below batch_size: one micro-batch a batch.
        parts: equal parts of batch_size that are cut into micro-batches each for itself.

    Raises:
        UserError: an epoch has fewer records than a global batch.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rank: int,
        world_size: int,
        first_batch: int,
        last_batch: int,
        micro_batch_size: int | None = None,
        parts: int = 1,
    ):
        self.order, self.batch_size = order, batch_size
        self.global_batch = batch_size * world_size
        self.offset = batch_size * rank
        self.first_batch, self.last_batch = first_batch, max(first_batch, last_batch)
        self.part = batch_size // parts
        self.micro_batch_size = min(micro_batch_size or self.part, self.part)
        self._micro = [
            (first, min(first + self.micro_batch_size, start + self.part))
            for start in range(0, batch_size, self.part)
            for first in range(start, start + self.part, self.micro_batch_size)
        ]  # rows of each micro-batch
        if order.size < self.global_batch:
            raise UserError(
                f"the training set has {order.size} records, a global batch {self.global_batch} "
                f"({batch_size} x {world_size} processes): lower DataLoader.Train.batch_size"
            )

    @property
    def batches_per_epoch(self) -> float:
        return self.order.size / self.global_batch

    @property
    def micro_offsets(self) -> list[int]:
        """Where each of this rank's micro-batches begins in the global batch."""
        return [self.offset + first for first, _ in self._micro]

    def indices(self, batch: int, first: int = 0, last: int | None = None) -> Numbers:
        """The records of this rank's rows first to last - 1 of `batch`; int64 [B] for all rows."""
        rows = np.arange(first, self.batch_size if last is None else last)
        return self.order(batch * self.global_batch + self.offset + rows)

    def __len__(self) -> int:
        return (self.last_batch - self.first_batch) * len(self._micro)

    def __getitem__(  # type: ignore[override]  # no slices
        self, number: int
    ) -> list[tuple[int, int, int]]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        batch, micro = divmod(number, len(self._micro))
        batch += self.first_batch
        first, last = self._micro[micro]
        return [
            (batch, self.offset + row, int(index))
            for row, index in zip(range(first, last), self.indices(batch, first, last))
        ]
