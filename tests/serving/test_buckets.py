"""Texts are grouped by length, and none is cut or lost."""

import numpy as np

from ernie_vil2.serving.buckets import BUCKET, by_length


def test_every_text_comes_once_and_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 31, 100)
    ids = np.where(np.arange(30) < lengths[:, None], 7, 0)
    seen, widths = [], []
    for rows, width in by_length(ids, 16):
        assert len(rows) <= 16 and width <= 30
        assert (ids[rows, width:] == 0).all()
        assert width == 30 or width < max(lengths[rows].max(), 1) + BUCKET
        seen.extend(rows)
        widths.append(width)
    assert sorted(seen) == list(range(100)) and widths == sorted(widths)


def test_a_zero_within_a_text_is_kept():
    ((_, width),) = by_length(np.array([[1, 0, 0, 0, 0, 2, 0, 0, 0]]), 8)
    assert width == 8


def test_no_texts():
    assert list(by_length(np.zeros([0, 5], np.int64), 8)) == []
