"""Orders of records: pure functions of seed and position."""

import numpy as np
import pytest

from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.orders import ShardOrder, permute

LENGTHS = [5, 0, 17, 1, 1, 40, 8, 0, 30, 12]  # 114 records


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 6396])
def test_permute_is_a_permutation(size):
    assert sorted(permute(np.arange(size), size, seed=3)) == list(range(size))


def test_permute_shuffles():
    size = 10_007
    one, two = (permute(np.arange(size), size, seed) for seed in (1, 2))
    assert abs(np.corrcoef(one, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert (np.diff(one) == 1).sum() < 10


def test_permute_needs_no_table():
    assert permute(np.array([0, 10**12 - 1]), 10**12, seed=1).max() < 10**12


def epochs(order, count=3):
    return order(np.arange(count * order.size)).reshape(count, -1)


def shards_of(records, lengths=LENGTHS):
    return np.searchsorted(np.cumsum(lengths), records, side="right")


@pytest.mark.parametrize("window", [1, 2, 3, 8, 9, 10**6])
@pytest.mark.parametrize("lengths", [LENGTHS, [3], [0, 4, 0], [1] * 20])
def test_shard_order_visits_each_record_once_an_epoch(lengths, window):
    found = epochs(ShardOrder(lengths, window, seed=5))
    assert found.dtype == np.int64 and found.shape == (3, sum(lengths))
    assert (np.sort(found, axis=1) == np.arange(sum(lengths))).all()
    if sum(lengths) > 10:
        assert len({tuple(epoch) for epoch in found}) == 3


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_shard_order_mixes_the_records_of_a_window_and_no_others(window):
    order = ShardOrder(LENGTHS, window, seed=1)
    filled = np.flatnonzero(LENGTHS)
    for epoch in epochs(order):
        shards = shards_of(epoch)
        by_first = list(dict.fromkeys(shards))
        assert sorted(by_first) == list(filled)
        start, seen = 0, set()
        while start < len(epoch):
            # a window is so many shards, all of their records, and nothing else
            size, open_now = 0, set()
            while not (len(open_now) == window and size == sum(LENGTHS[s] for s in open_now)):
                if start + size == len(epoch):
                    break
                open_now.add(shards[start + size])
                size += 1
            assert len(open_now) <= window and not open_now & seen
            assert size == sum(LENGTHS[s] for s in open_now)
            seen |= open_now
            start += size
        assert seen == set(filled)


def test_shard_order_holds_few_shards_open_and_shuffles_within():
    lengths = np.full(200, 50)
    for window in (4, 16):
        (epoch,) = epochs(ShardOrder(lengths, window, seed=1), 1)
        shards = shards_of(epoch, lengths)
        for start in range(0, len(epoch) - window * 50, 37):  # wherever in an epoch
            assert len(set(shards[start : start + window * 50])) <= 2 * window
        first = epoch[: window * 50]
        assert len(set(shards[: window * 50])) == window
        assert (np.diff(first) == 1).mean() < 0.02  # neighbours in a shard part
        assert len(set(shards[:32])) > window / 2  # a batch sees most of its window's shards
        runs = shards[:: window * 50]
        assert abs(np.corrcoef(runs, np.arange(len(runs)))[0, 1]) < 0.6  # no order of the shards


def test_shard_order_is_a_function_of_seed_and_position():
    order = ShardOrder(LENGTHS, 3, seed=5)
    whole = order(np.arange(500))
    rng = np.random.default_rng(0)
    positions = rng.permutation(500)
    assert np.array_equal(ShardOrder(LENGTHS, 3, seed=5)(positions), whole[positions])
    assert [int(order(np.array([p]))[0]) for p in positions] == list(whole[positions])
    assert not np.array_equal(ShardOrder(LENGTHS, 3, seed=6)(np.arange(500)), whole)
    assert not np.array_equal(ShardOrder(LENGTHS, 4, seed=5)(np.arange(500)), whole)
    runs = [112, 4, 1, 111, 113, 3, 106, 105, 104, 110, 102, 23, 103, 108, 107, 0]
    assert list(whole[:16]) == runs, "runs that go on would read other data"


def test_shard_order_needs_no_table_of_records():
    lengths = np.random.default_rng(0).integers(0, 20_000, 150_000)  # 1.5 billion records
    order = ShardOrder(lengths, 16, seed=1)
    total = int(lengths.sum())
    found = order(np.array([0, total - 1, total, 7 * total + 12345]))
    assert (found >= 0).all() and (found < total).all()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_lose_and_repeat_nothing_whatever_the_shards(world):
    """More ranks than shards with records, unequal ones, empty ones: they read one stream."""
    for lengths in ([0, 3, 21], LENGTHS):
        order = ShardOrder(lengths, 2, seed=3)
        batches = sum(lengths)  # so that 4 epochs are read whole
        ranks = [GlobalBatches(order, 4 // world, r, world, 0, batches) for r in range(world)]
        stream = [index for b in range(batches) for rank in ranks for _, _, index in rank[b]]
        assert np.array_equal(stream, order(np.arange(4 * batches)))
        assert sorted(stream) == sorted(list(range(sum(lengths))) * 4)
        resumed = GlobalBatches(order, 4 // world, world - 1, world, 5, batches)
        assert list(resumed) == list(ranks[-1])[5:]
