"""In which order training reads several sources: each has its share of any stretch of positions.

Which source a position belongs to is no draw. Two sources are mixed by a balanced word (Morse and
Hedlund 1940): a source of share w has floor(p w + 1/2) of the first p positions, so that any n
positions in a row have less than one more or less than n w of it. Several are split into two
groups, these again, along Huffman's tree (1952) of their weights. Both ways of asking, which source
a position has and how many positions a source has before it, walk down that tree and need no table,
so a run begins anywhere at no cost.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, Union

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.keys import key
from ernie_vil2.data.orders import Order

# Of all weights together, as integers: what is multiplied below stays within int64.
_MOST = 1 << 31
ON_END = ("repeat", "stop")


class Shares:
    """Which of several sources each position of an endless stream belongs to.

    The count of a source in any n positions in a row differs from n times its share by less than
    `BOUND`, however many sources there are; with two of them by less than 1. (A child's count
    differs from its share of its parent's by less than 1, so with the shares r of its ancestors in
    theirs the difference is below 1 + r1 + r1 r2 + ...; along Huffman's tree a node weighs at most
    half of its grandparent, so that this is at most 1 + 1 + 1/2 + 1/2 + ... = 4.)

    Args:
        weights: of the sources, above 0, in any unit.

    Attributes:
        weights: as integers. Exact, unless their common denominator is too large for 2^31 in all:
            then rounded, to 1 at least.
    """

    BOUND = 4

    def __init__(self, weights: Sequence[float]):
        self.weights = _integers(weights)
        heap: list[tuple[int, int, _Node]] = [(w, k, k) for k, w in enumerate(self.weights)]
        heapq.heapify(heap)
        while len(heap) > 1:  # equal weights in the order in which they came
            lighter, heavier = heapq.heappop(heap), heapq.heappop(heap)
            split = _Split(heavier[0], heavier[0] + lighter[0], heavier[2], lighter[2])
            heapq.heappush(heap, (split.total, len(self.weights) + len(heap), split))
        ((self.total, _, self._root),) = heap

    def share(self, source: int) -> float:
        """Of all positions."""
        return self.weights[source] / self.total

    def counts(self, position: int) -> list[int]:
        """How many of the first `position` positions each source has."""
        found = [0] * len(self.weights)
        todo: list[tuple[_Node, int]] = [(self._root, position)]
        while todo:
            node, count = todo.pop()
            if isinstance(node, int):
                found[node] = count
            else:
                first = int(node.first_of(np.array(count)))
                todo += [(node.first, first), (node.second, count - first)]
        return found

    def places(self, positions: Numbers) -> tuple[Numbers, Numbers]:
        """The source of each position, and how many positions it has before; int64 [B] all."""
        sources, counts = np.zeros_like(positions), positions.copy()
        todo: list[tuple[_Node, Numbers]] = [(self._root, np.arange(len(positions)))]
        while todo:
            node, which = todo.pop()
            if isinstance(node, int):
                sources[which] = node
                continue
            within = counts[which]
            first = node.first_of(within)
            mine = node.first_of(within + 1) > first
            counts[which] = np.where(mine, first, within - first)
            todo += [(node.first, which[mine]), (node.second, which[~mine])]
        return sources, counts


class _Split(NamedTuple):
    """Two groups of sources: `first` has `weight` of every `total` positions of both."""

    weight: int
    total: int
    first: _Node
    second: _Node

    def first_of(self, counts: Numbers) -> Numbers:
        """How many of both's first `counts` positions `first` has: rounded, halves up."""
        whole, rest = np.divmod(counts, self.total)
        return whole * self.weight + (rest * self.weight + self.total // 2) // self.total


_Node = Union[int, _Split]  # a source's number, or two groups


def _integers(weights: Sequence[float]) -> list[int]:
    exact = [Fraction(str(weight)) for weight in weights]  # 0.1 is a tenth
    unit = math.lcm(*(each.denominator for each in exact))
    whole = [int(each * unit) for each in exact]
    common = math.gcd(*whole)
    if sum(whole) // common <= _MOST:
        return [weight // common for weight in whole]
    room, total = _MOST - len(whole), sum(whole)
    return [max(1, weight * room // total) for weight in whole]


class MixtureOrder:
    """Several sources in proportions, each in its own order. An `Order`.

    The n-th position of a source reads what its own order has at n, so that a source is read as if
    it were alone, epoch after epoch; its order depends on the seed and its name, not on the others.

    Args:
        orders: source -> its own order.
        lengths: records of each, in the same sequence; source k's numbers follow those before.
        weights: of each.
        on_end: what an epoch is. "repeat": as many positions as there are records in all; what is
            read up sooner begins again. "stop": the positions until the first source is read up.

    Attributes:
        size: positions of an epoch.
    """

    def __init__(
        self,
        orders: Mapping[str, Order],
        lengths: Sequence[int],
        weights: Sequence[float],
        on_end: str = "repeat",
    ):
        assert on_end in ON_END and len(orders) == len(lengths) == len(weights)
        self.names, self._orders = list(orders), list(orders.values())
        self.shares = Shares(weights)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        self._lengths = list(lengths)
        self.size = sum(lengths)
        if on_end == "stop":
            total = self.shares.total
            self.size = min(-(-n * total // w) for n, w in zip(lengths, self.shares.weights))

    def __call__(self, positions: Numbers) -> Numbers:
        sources, counts = self.shares.places(positions)
        result = np.empty_like(counts)
        for source in np.unique(sources):
            mine = sources == source
            result[mine] = self._offsets[source] + self._orders[source](counts[mine])
        return result

    def __str__(self) -> str:
        shares = (f"{name} {self.shares.share(k):.2%}" for k, name in enumerate(self.names))
        return ", ".join(shares)

    def epochs(self, position: int) -> dict[str, float]:
        """Source -> how often it was read before `position`."""
        counts = self.shares.counts(position)
        return {name: n / size for name, n, size in zip(self.names, counts, self._lengths)}


def source_seed(seed: int, name: str) -> int:
    """The seed of the order of the source `name` in a run of `seed`."""
    return key(f"{seed} {name}") % 2**32


def tempered(lengths: Sequence[int], temperature: float) -> list[float]:
    """Weights length ** (1 / temperature), the largest as 1.

    1 reads in proportion to the sizes, higher ones give small sources more, infinity the same to
    all: as multilingual pre-training samples languages (XLM-R, Conneau et al. 2020, arXiv
    1911.02116, alpha = 1 / temperature; mT5, Xue et al. 2021, arXiv 2010.11934).
    """
    return [(length / max(lengths)) ** (1 / temperature) for length in lengths]
