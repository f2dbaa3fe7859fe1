"""Orders of records: pure functions of seed and position."""

import numpy as np
import pytest

from ernie_vil2.data.orders import permute


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
