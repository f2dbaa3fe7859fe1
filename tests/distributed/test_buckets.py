"""What travels together."""

import paddle

from ernie_vil2.distributed.buckets import fill, size


def test_buckets_hold_one_kind_and_no_more_than_the_limit():
    sizes = {"a": 3, "b": 4, "c": 2, "d": 9, "e": 1, "f": 5}
    kinds = {"a": 0, "b": 1, "c": 0, "d": 0, "e": 0, "f": 1}
    found = fill(sizes, kinds, 8)
    assert sorted(name for names in found for name in names) == sorted(sizes)
    for names in found:
        assert len({kinds[name] for name in names}) == 1
        assert len(names) == 1 or sum(sizes[name] for name in names) <= 8
    assert ["a", "c"] in found and ["d"] in found  # filled, and too large for any
    assert fill(sizes, kinds, 0) != found
    assert all(len(names) == 1 for names in fill(sizes, kinds, 0))


def test_size_of_what_has_no_storage():
    tensor = paddle.zeros([3, 5], "bfloat16")
    tensor._clear_data()
    assert size(tensor) == 30
