"""The numbers of each row, of which those of the batch are the means."""

import numpy as np
import paddle
import pytest

from ernie_vil2.losses.multiview import MultiViewContrastive
from tests.losses.test_chunked import CHUNKS, IDS, MIXED, ROWS, VALID, leaves, tensors_of
from tests.support import reference
from tests.support.reference import unit_rows

VIEWS = ("image1", "image2", "text1", "text2")
PAIRS = [
    ("image1", "image2", 1.0, 10.0, None),
    ("text1", "text2", 2.0, 5.0, None),
    ("image1", "text1", 0.5, 9.0, None),
    ("image2", "text2", 1.0, 9.0, -10.0),
]


def found(by_row, ring=False, chunk=None):
    loss = MultiViewContrastive(MIXED, chunk=chunk, ring=ring)
    loss.by_row = by_row
    arrays = {view: unit_rows(ROWS, 6, seed) for seed, view in enumerate(VIEWS)}
    return arrays, loss(leaves(arrays), 9.0, tensors_of(IDS), paddle.to_tensor(VALID))


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_each_row_against_float64(ring, chunk):
    arrays, result = found(True, ring, chunk)
    rows = result.pop("by_row")
    assert rows.keys() == result.keys() and all(x.stop_gradient for x in rows.values())
    for row in np.flatnonzero(VALID):
        alone = reference.multi_view(arrays, PAIRS, IDS, VALID, np.arange(ROWS) == row)
        for name, values in rows.items():
            assert values.shape == [ROWS]
            assert float(values[row]) == pytest.approx(VALID.sum() * alone[name], rel=1e-5), name


def test_they_change_no_number():
    _, result = found(True)
    _, without = found(False)
    assert "by_row" not in without
    assert {n: float(x) for n, x in without.items()} == {
        name: float(value) for name, value in result.items() if name != "by_row"
    }
