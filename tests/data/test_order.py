"""The order of the data: each epoch every record, for any number of processes, from any batch."""

import numpy as np
import pytest

from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.orders import EpochOrder
from ernie_vil2.errors import UserError


def ranks(world, size=23, global_batch=4, **options):
    options = {"first_batch": 0, "last_batch": 23, **options}
    order = EpochOrder(size, options.pop("seed", 5), options.pop("shuffle", True))
    return [
        GlobalBatches(order, global_batch // world, rank, world, **options) for rank in range(world)
    ]


def stream(batches):
    return [index for micro_batch in batches for _, _, index in micro_batch]


@pytest.mark.parametrize(("size", "global_batch"), [(23, 4), (24, 4), (5, 4), (4, 4), (1, 1)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_visits_each_record_once(size, global_batch, shuffle):
    (one,) = ranks(1, size, global_batch, shuffle=shuffle, last_batch=3 * size)
    epochs = np.reshape(stream(one), (-1, size))  # 3 * size * global_batch records
    assert len(epochs) == 3 * global_batch
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    assert one.batches_per_epoch == pytest.approx(size / global_batch)
    if shuffle and size > 20:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    if not shuffle:
        assert (epochs == np.arange(size)).all()


def test_a_batch_straddles_two_epochs():
    (one,) = ranks(1)
    assert not one.batches_per_epoch.is_integer()
    straddling = one.indices(5)  # positions 20 to 23, of 23 records
    assert len(straddling) == 4
    assert sorted([*stream(one)[:20], *straddling[:3]]) == list(range(23))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_global_batches_of_one_process(world):
    (one,), many = ranks(1), ranks(world)
    for number in range(23):
        rows = [row for rank in many for row in rank[number]]
        assert rows == one[number]
        assert [place for _, place, _ in rows] == [0, 1, 2, 3]
        assert np.array_equal(
            np.concatenate([r.indices(number) for r in many]), one.indices(number)
        )


@pytest.mark.parametrize("world", [1, 2])
def test_resume_from_any_batch(world):
    for first in range(0, 23, 5):
        for whole, rest in zip(ranks(world), ranks(world, first_batch=first)):
            assert list(rest) == list(whole)[first:]
            assert len(rest) == 23 - first


def test_seed_decides_the_order():
    orders = [stream(ranks(1, seed=seed)[0]) for seed in (5, 5, 6)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(("micro", "sizes"), [(None, [6]), (9, [6]), (4, [4, 2]), (1, [1] * 6)])
def test_micro_batches_leave_nothing_out(micro, sizes):
    whole = ranks(2, global_batch=12)
    parts = ranks(2, global_batch=12, micro_batch_size=micro)
    for rank, (one, cut) in enumerate(zip(whole, parts)):
        assert [len(cut[n]) for n in range(len(sizes))] == sizes
        assert len(cut) == 23 * len(sizes)
        assert [row for micro_batch in cut for row in micro_batch] == [r for b in one for r in b]
        assert cut.micro_offsets == [cut[n][0][1] for n in range(len(sizes))]
        assert cut.micro_offsets[0] == rank * 6


def test_nothing_left_to_read():
    (one,) = ranks(1, first_batch=30)
    assert len(one) == 0 and list(one) == []


def test_set_smaller_than_a_batch():
    with pytest.raises(UserError, match="3 records, a global batch 4"):
        ranks(2, size=3)


@pytest.mark.parametrize("micro", [None, 3, 4, 50])
def test_parts_have_the_micro_batches_that_ranks_have(micro):
    """Those of a step follow one another, rank after rank."""
    (one,), two = (
        ranks(world, global_batch=12, last_batch=4, micro_batch_size=micro, parts=parts)
        for world, parts in ((1, 2), (2, 1))
    )
    each = len(two[0].micro_offsets)
    assert one.micro_offsets == two[0].micro_offsets + two[1].micro_offsets
    for batch in range(4):
        rows = range(batch * each, (batch + 1) * each)
        expected = [rank[number] for rank in two for number in rows]
        assert [one[number] for number in range(2 * rows.start, 2 * rows.stop)] == expected
