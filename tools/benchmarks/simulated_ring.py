"""One rank of a ring in one process: the blocks of others are slices of what a gather brings."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from ernie_vil2.distributed.ring import Ring, Shift


class SimulatedRing(Ring):
    """The ring of `losses/ring.py` as this rank sees it, with all that it holds.

    Blocks come as copies. Gradients of others' blocks leave: they are added to those of `columns`
    where it takes any, and are forgotten otherwise. From the rank before come zeros.

    Args:
        columns: [N, V, D], the embeddings of all ranks.
        keys: int64 [N, K + 1], of `Records.keys`.
        rows: of a rank.
    """

    def __init__(self, columns: paddle.Tensor, keys: paddle.Tensor, rank: int, rows: int):
        self.rank, self.world_size = rank, columns.shape[0] // rows
        self._columns, self._keys, self._rows = columns, keys, rows
        self._blocks = self._gradients = 0  # that have been sent

    def start_shift(self, tensors: Sequence[paddle.Tensor]) -> Shift:
        if len(tensors) == 2:
            part = self._part(self._blocks)
            self._blocks += 1
            coming = [x.detach()[part].clone() for x in (self._columns, self._keys)]
        else:
            part = self._part(self._gradients)
            self._gradients += 1
            coming = [paddle.zeros_like(x) for x in tensors]
            if not self._columns.stop_gradient:
                whole = self._columns.grad
                whole = paddle.zeros_like(self._columns) if whole is None else whole
                whole[part] = whole[part] + tensors[0]
                self._columns.grad = whole
        return Shift(tensors, coming, ())

    def _part(self, number: int) -> slice:
        """Of `columns`: the block that comes, or whose gradient leaves, as the number-th."""
        hop = number % (self.world_size - 1) + 1
        owner = (self.rank - hop) % self.world_size
        return slice(owner * self._rows, (owner + 1) * self._rows)
