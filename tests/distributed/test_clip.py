"""Clipping against Paddle's own, and against float64 NumPy where Paddle's own refuses."""

import numpy as np
import paddle
import pytest
from paddle.autograd import PyLayer

from ernie_vil2.distributed.clip import clip_gradients

SHAPES = [[7, 5], [5], [1], [3, 2, 2]]


def parameters(dtypes, size=1.0):
    """Parameters with random gradients, the last without one; and these in float64."""
    rng, made, arrays = np.random.default_rng(0), [], []
    for shape, dtype in zip(SHAPES, dtypes):
        p = paddle.create_parameter(
            shape,
            dtype,
            default_initializer=paddle.nn.initializer.Assign(np.zeros(shape, "float32")),
        )
        p.grad = paddle.to_tensor(rng.normal(size=shape) * size, "float32").astype(dtype)
        made.append(p)
        arrays.append(p.grad.astype("float32").numpy().astype("float64"))
    return [*made, paddle.create_parameter([2], "float32")], arrays


def norm_of(arrays):
    return np.sqrt(sum((a**2).sum() for a in arrays))


@pytest.mark.parametrize("max_norm", [0.5, 100.0, None])
def test_it_is_paddles_in_float32(max_norm):
    ours, arrays = parameters(["float32"] * 4)
    theirs, _ = parameters(["float32"] * 4)
    norm = clip_gradients(ours, max_norm)
    expected = paddle.nn.utils.clip_grad_norm_(theirs, max_norm or float("inf"))
    assert float(norm) == pytest.approx(float(expected), rel=1e-6)
    assert float(norm) == pytest.approx(norm_of(arrays), rel=1e-6)
    for p, q in zip(ours[:-1], theirs):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-6)
    assert ours[-1].grad is None


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_mixed_dtypes_have_one_norm_in_float32(half):
    # 1,000 squared is no number of float16
    mixed, arrays = parameters([half, half, "float32", half], size=1000.0)
    norm = clip_gradients(mixed, 1.0)
    assert str(norm.dtype).endswith("float32") and norm.shape == []
    assert float(norm) == pytest.approx(norm_of(arrays), rel=1e-5)
    clipped = [p.grad.astype("float32").numpy() for p in mixed[:-1]]
    for found, before in zip(clipped, arrays):
        np.testing.assert_allclose(found, before / norm_of(arrays), rtol=2e-2)


class Sum(PyLayer):
    """Gives both of its inputs one gradient, in one place."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, slope):
        return slope, slope


def test_gradients_that_lie_in_one_place_are_scaled_once():
    a, b = (paddle.create_parameter([4], "float32") for _ in range(2))
    Sum.apply(a, b).sum().backward()
    assert a.grad.data_ptr() == b.grad.data_ptr()  # else this tries nothing
    assert float(clip_gradients([a, b], 1.0)) == pytest.approx(8**0.5)
    for p in (a, b):
        np.testing.assert_allclose(p.grad.numpy(), [8**-0.5] * 4, rtol=1e-6)


def test_what_is_not_finite_stays_so():
    ours, _ = parameters(["float32"] * 4)
    ours[1].grad = paddle.full([5], float("inf"))
    assert not np.isfinite(float(clip_gradients(ours, 1.0)))
