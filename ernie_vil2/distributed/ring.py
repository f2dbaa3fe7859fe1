"""Ranks in a circle: each sends to the next one, and receives from the one before.

Blocks that travel so are with every rank in turn, and no rank ever holds those of all (as in ring
attention, Liu et al. 2023, arXiv 2310.01889).

Sends and receives of a rank are begun in the order of their lanes. Where an even number of ranks
stands in the circle, links leave its ranks in lane 0 and 1 by turns; the last link of an odd circle
is alone in lane 2. So two ranks that a link joins always come to it, whether a send returns at once
(NCCL) or waits for its receive (gloo).

Over NCCL they are begun one by one, on the communicator that Paddle makes for each pair of ranks.
`batch_isend_irecv` of Paddle 2.6 would not do: its tasks record what `wait` waits for before the
end of the batch has launched the transfer. This was read in process_group_nccl.cc; nothing here
has run over NCCL.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import paddle
import paddle.distributed as dist

from ernie_vil2.distributed import ranks
from ernie_vil2.distributed.ranks import Task

_LANES = 3


class Shift:
    """Tensors on their way to the next rank, while those of the one before come in."""

    def __init__(
        self, sent: Sequence[paddle.Tensor], coming: list[paddle.Tensor], tasks: Sequence[Task]
    ):
        self._sent, self._coming, self._tasks = sent, coming, tasks  # `sent` lives until wait()

    def wait(self) -> list[paddle.Tensor]:
        """What has come, of the same shapes as what was sent."""
        for task in self._tasks:
            task.wait()
        self._sent = self._tasks = ()
        return self._coming


class Ring:
    """The circle of this run's ranks, all of which call the same methods in the same order.

    Attributes:
        rank, world_size: this rank's place in it, and how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = ranks.rank(), ranks.world_size()

    def start_shift(self, tensors: Sequence[paddle.Tensor]) -> Shift:
        """Begin to send these to the next rank; neither change nor free them before `Shift.wait`.

        Over gloo it returns when they have arrived. Needs more than one process.
        """
        sent = [x.detach().contiguous() for x in tensors]
        coming = [paddle.empty_like(x) for x in sent]
        tasks: list[Task] = []
        before = (self.rank - 1) % self.world_size
        for sender in sorted((before, self.rank), key=self._lane):
            group = _groups()[self._lane(sender)]
            for out, into in zip(sent, coming):
                if sender == self.rank:
                    tasks.append(dist.isend(out, (self.rank + 1) % self.world_size, group))
                else:
                    tasks.append(dist.irecv(into, before, group))
        return Shift(sent, coming, tasks)

    def _lane(self, sender: int) -> int:
        """Of the link from `sender` to the next rank."""
        closes_odd = sender == self.world_size - 1 and sender % 2 == 0
        return 2 if closes_odd else sender % 2

    def blocks(self, tensors: Sequence[paddle.Tensor]) -> Iterator[tuple[int, list[paddle.Tensor]]]:
        """Each rank's tensors and its number, this rank's first; the next come meanwhile.

        Neither the caller nor the owner may change them in place.
        """
        block = list(tensors)
        for hop in range(self.world_size):
            last = hop + 1 == self.world_size
            shift = None if last else self.start_shift(block)
            yield (self.rank - hop) % self.world_size, block
            if shift is not None:
                block = shift.wait()


@functools.cache
def _groups() -> list[Any]:
    """The process group of each lane.

    gloo matches a send with a receive by how many operations both ranks have begun in the group,
    which differ in an odd circle: there each lane has a group of its own.
    """
    if ranks.on_gpu() or ranks.world_size() % 2 == 0:
        return [None] * _LANES
    return [dist.new_group(list(range(ranks.world_size()))) for _ in range(_LANES)]
