"""Shares of sources: exact over any stretch, found at any position, alike for any processes."""

import math
from fractions import Fraction

import numpy as np
import pytest

from ernie_vil2.data.mixture_order import MixtureOrder, Shares, source_seed, tempered
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.orders import EpochOrder

WEIGHTS = [
    [1],
    [3, 1],
    [1, 1, 1],
    [0.1, 0.2, 0.7],
    [1000, 1, 1],
    [1, 2, 4, 8, 16, 32, 64],
    [5, 1, 4, 1, 3, 1, 2, 1, 1],
    [1, 1, 2, 3, 5, 8, 13, 21, 34],  # the deepest tree of Huffman's
    [math.pi, math.e, math.sqrt(2), 1e-3],
]


def worst_stretch(sources, share, source):
    """The largest |count - n share| over all n positions in a row of `sources`, as a Fraction."""
    counts = np.concatenate([[0], np.cumsum(sources == source)])
    apart = [int(count) - place * share for place, count in enumerate(counts)]
    return max(apart) - min(apart)  # of any two ends of a stretch, one of its differences


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_are_exact_over_any_stretch(weights):
    shares = Shares(weights)
    total = sum(map(Fraction, map(str, weights)))
    sources, _ = shares.places(np.arange(3000))
    bound = 1 if len(weights) == 2 else Shares.BOUND
    for source, weight in enumerate(weights):
        share = Fraction(str(weight)) / total
        assert worst_stretch(sources, share, source) < bound
        assert abs(shares.share(source) - share) < 1e-9


def test_a_draw_by_luck_would_be_found():
    drawn = np.random.default_rng(0).choice(2, 3000, p=[0.75, 0.25])
    assert worst_stretch(drawn, Fraction(3, 4), 0) > Shares.BOUND


@pytest.mark.parametrize("seed", range(20))
def test_shares_of_drawn_weights(seed):
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, 2, rng.integers(2, 12))).round(3) + 0.001
    weights = [round(float(weight), 3) for weight in weights]
    first = int(rng.integers(10**12))  # anywhere in the stream
    sources, _ = Shares(weights).places(np.arange(first, first + 2000))
    total = sum(Fraction(str(weight)) for weight in weights)
    for source, weight in enumerate(weights):
        assert worst_stretch(sources, Fraction(str(weight)) / total, source) < Shares.BOUND


@pytest.mark.parametrize("weights", WEIGHTS)
def test_places_and_counts_are_those_of_counting(weights):
    shares = Shares(weights)
    sources, counts = shares.places(np.arange(1000))
    seen = [0] * len(weights)
    for position, (source, count) in enumerate(zip(sources, counts)):
        assert shares.counts(position) == seen
        assert count == seen[source]
        seen[source] += 1
    some = np.array([999, 3, 500, 3])  # any positions, in any order
    assert [a.tolist() for a in shares.places(some)] == [
        sources[some].tolist(),
        counts[some].tolist(),
    ]
    far = 10**15
    before, after = shares.counts(far), shares.counts(far + 1)
    (source,), (count,) = shares.places(np.array([far]))
    assert sum(before) == far and count == before[source] and after[source] == count + 1


def mixture(lengths=(40, 7, 23), weights=(3, 1, 1.5), seed=5, names="abc", **options):
    orders = {
        name: EpochOrder(length, source_seed(seed, name), shuffle=True)
        for name, length in zip(names, lengths)
    }
    return MixtureOrder(orders, lengths, weights, **options)


def test_each_source_is_read_as_if_it_were_alone():
    order = mixture()
    read = order(np.arange(400))
    assert read.min() == 0 and read.max() == 69
    for name, first, length in zip("abc", (0, 40, 47), (40, 7, 23)):
        own = read[(read >= first) & (read < first + length)] - first
        alone = EpochOrder(length, source_seed(5, name), shuffle=True)(np.arange(len(own)))
        assert np.array_equal(own, alone)
        epochs = own[: len(own) // length * length].reshape(-1, length)
        assert (np.sort(epochs) == np.arange(length)).all()
        assert order.epochs(400)[name] == len(own) / length


def test_a_new_source_leaves_the_orders_of_the_others_alone():
    one, two = mixture()(np.arange(300)), mixture((40, 7, 23, 9), (3, 1, 1.5, 2), names="abcd")
    two = two(np.arange(400))
    for first, last in ((0, 40), (40, 47), (47, 70)):
        own, again = (x[(x >= first) & (x < last)] for x in (one, two))
        both = min(len(own), len(again))
        assert both > 10 and np.array_equal(own[:both], again[:both])


def test_seeds_differ_by_source_and_run():
    assert len({source_seed(seed, name) for seed in (1, 2) for name in ("a", "b")}) == 4


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_processes_read_the_same_from_anywhere(world):
    expected = mixture()(np.arange(8 * 20)).reshape(20, 8)
    for first in (0, 7):
        ranks = [GlobalBatches(mixture(), 8 // world, r, world, first, 20) for r in range(world)]
        for batch in range(first, 20):
            read = np.concatenate([rank.indices(batch) for rank in ranks])
            assert np.array_equal(read, expected[batch])


def test_an_epoch():
    assert mixture().size == 70
    order = mixture(on_end="stop")
    assert order.size == math.ceil(7 * 5.5)  # the source of 7 records is read up first
    for epochs in (1, 10, 1000):
        read = order.epochs(epochs * order.size)
        assert read["b"] == pytest.approx(epochs, rel=0.02) and max(read["a"], read["c"]) < epochs


def test_temperatures():
    assert tempered([100, 400], 1.0) == [0.25, 1.0]
    assert tempered([100, 400], 2.0) == [0.5, 1.0]
    assert tempered([100, 400], math.inf) == [1.0, 1.0]
    shares = Shares(tempered([100_000_000, 29_000_000, 17], 3.0))
    assert shares.total <= 2**31 and min(shares.weights) >= 1
