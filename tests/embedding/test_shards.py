"""Numbers of fewer bytes: what they lose, against a bound that is proved and not measured."""

import math

import numpy as np
import pytest

from ernie_vil2.embedding.shards import least_cosine, reduced, scale_of


@pytest.mark.parametrize("outlier", [0, 0.5])
def test_int8_loses_less_than_half_a_step_of_each_number(outlier):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=[500, 256]) / 16
    vectors[:, 7] += outlier  # as trained towers have some
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    scale = scale_of(float(np.abs(vectors).max()))
    stored = reduced(vectors, "int8", scale)
    assert stored.dtype == np.int8 and np.abs(stored).max() == 127
    assert np.abs(stored * scale - vectors).max() <= scale / 2 * 1.001
    exact = vectors.astype(np.float64)
    cosines = (exact * stored).sum(1) / np.linalg.norm(exact, axis=1)
    cosines /= np.linalg.norm(stored.astype(np.float64), axis=1)
    assert least_cosine(vectors, stored) == pytest.approx(cosines.min(), abs=1e-12)
    # an error of length e turns a vector of length 1 by at most arcsin e
    assert cosines.min() > math.sqrt(1 - (math.sqrt(256) * scale / 2) ** 2)
    assert cosines.min() > 0.999


def test_a_set_of_zeros_has_a_scale_too():
    zeros = np.zeros([2, 3], np.float32)
    assert not reduced(zeros, "int8", scale_of(0.0)).any()
    assert least_cosine(zeros[:0], zeros[:0]) == 1


def test_float16_is_numpys():
    vectors = np.random.default_rng(0).normal(size=[5, 8]).astype(np.float32)
    assert (reduced(vectors, "float16", None) == vectors.astype(np.float16)).all()
    assert least_cosine(vectors, reduced(vectors, "float32", None)) == pytest.approx(1)
