"""Means by source: of valid records alone, and of each what it is."""

import numpy as np
import paddle
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.training.by_source import BySource
from tests.support.rows import b64, png, write


@pytest.fixture
def by_source(tmp_path):
    """Of three sources with 2, 3 and 1 records."""
    row = b"text\tid\t" + b64(png(1))
    sources = {
        name: {"name": "tsv", "path": write(tmp_path / f"{name}.tsv", *[row] * count)}
        for name, count in (("a", 2), ("b", 3), ("c", 1))
    }
    return BySource(build_reader("mixture", sources=sources))


def micro_batch(index, valid):
    return {"index": np.array(index), "valid": paddle.to_tensor(valid)}


def test_means_are_those_of_each_sources_valid_records(by_source):
    by_row = {"loss": paddle.to_tensor([1.0, 2.0, 4.0, float("nan"), 8.0])}
    by_row["x/accuracy"] = paddle.to_tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    batches = [
        [micro_batch([0, 2], [True, True]), micro_batch([4, 1], [True, False])],
        [micro_batch([3], [True])],
    ]
    by_source.add(by_row, batches)
    one = {"a/loss": 1.0, "a/x/accuracy": 1.0, "b/loss": 14 / 3, "b/x/accuracy": 1 / 3}
    by_source.add({n: x[:1] for n, x in by_row.items()}, [[micro_batch([1], [True])]])
    assert by_source.collect() == pytest.approx(one)  # nothing of c, of which nothing came
    assert by_source.collect() == {}
    by_source.add({"loss": paddle.to_tensor([5.0])}, [[micro_batch([5], [True])]])
    assert by_source.collect() == {"c/loss": 5.0}
