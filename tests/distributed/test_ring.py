"""The order of sends and receives in a circle of any size; `tests/losses/test_ring.py` runs it."""

from collections import Counter
from types import SimpleNamespace

import paddle
import pytest

from ernie_vil2.distributed import ring as module
from ernie_vil2.distributed.ring import Ring, Shift


class Place(Ring):
    def __init__(self, rank, world_size):
        self.rank, self.world_size = rank, world_size


def begun(rank, world_size, groups, monkeypatch) -> list[tuple]:
    """(sender, receiver, group) of what a rank begins in two shifts, in its order."""
    calls: list[tuple] = []
    operators = SimpleNamespace(
        isend=lambda x, to, group: calls.append((rank, to, group)),
        irecv=lambda x, source, group: calls.append((source, rank, group)),
    )
    monkeypatch.setattr(module, "dist", operators)
    monkeypatch.setattr(module, "_groups", lambda: groups)
    for _ in range(2):
        Place(rank, world_size).start_shift([paddle.zeros([2]), paddle.zeros([1])])
    return calls


def run(queues: list[list]) -> int:
    """Let ranks work their queues off, waiting for one another as gloo does; what remains.

    A send meets a receive if both ranks have begun as many operations in the group.
    """
    count, moved = Counter(), True
    while moved:
        moved = False
        for rank, queue in enumerate(queues):
            if not queue:
                continue
            sender, receiver, group = queue[0]
            other = queues[receiver if rank == sender else sender]
            numbers = count[sender, group], count[receiver, group]
            if other and other[0] == queue[0] and numbers[0] == numbers[1]:
                for each in (sender, receiver):
                    queues[each].pop(0)
                    count[each, group] += 1
                moved = True
    return sum(map(len, queues))


@pytest.mark.parametrize("world_size", range(2, 10))
def test_every_send_meets_its_receive(world_size, monkeypatch):
    groups = [None] * 3 if world_size % 2 == 0 else ["first", "second", "third"]
    queues = [begun(rank, world_size, groups, monkeypatch) for rank in range(world_size)]
    assert all(len(queue) == 8 for queue in queues)  # 2 shifts of 2 tensors, there and from there
    assert run(queues) == 0


def test_an_odd_circle_needs_its_lanes(monkeypatch):
    """The test above is able to fail: in one group for all, rank 0 counts otherwise than rank 2."""
    assert run([begun(rank, 3, [None] * 3, monkeypatch) for rank in range(3)]) > 0
    assert run([[(0, 1, None), (1, 0, None)], [(1, 0, None), (0, 1, None)]]) > 0


def test_blocks_come_in_the_order_of_the_circle():
    class Numbers(Place):
        def start_shift(self, tensors):
            return Shift(tensors, [x - 1 for x in tensors], ())

    for rank in range(3):
        found = list(Numbers(rank, 3).blocks([paddle.to_tensor(rank)]))
        assert [owner for owner, _ in found] == [(rank - hop) % 3 for hop in range(3)]
        assert [int(x) for _, (x,) in found] == [rank, rank - 1, rank - 2]


def test_alone_a_rank_sees_its_own_block():
    ((owner, (block,)),) = Ring().blocks([paddle.ones([2])])
    assert owner == 0 and block.tolist() == [1, 1]
