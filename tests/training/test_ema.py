"""The moving average against its formula."""

import numpy as np
import paddle
import pytest

from ernie_vil2.training.ema import EMA


def test_ema_follows_and_is_applied_for_a_while():
    p = paddle.create_parameter([2], "float32")
    p.set_value(paddle.to_tensor([0.0, 0.0]))
    ema, expected = EMA({"p": p}, decay=0.5), 0.0
    for n in range(1, 6):
        p.set_value(paddle.to_tensor([float(n), 0.0]))
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    with ema.applied():
        assert float(p[0]) == pytest.approx(expected, rel=1e-6)
    assert float(p[0]) == 5.0
    assert not p.stop_gradient


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_thousand_updates_are_those_of_float64(dtype):
    """By decay * average + (1 - decay) * p; float64 stands for any type but the averages'."""
    rng = np.random.default_rng(0)
    shapes = {"matrix": [7, 5], "vector": [33], "scalar": [1]}
    parameters = {name: paddle.create_parameter(shape, dtype) for name, shape in shapes.items()}
    ema = EMA(parameters, decay=0.999)
    expected = {name: p.numpy().astype(np.float64) for name, p in parameters.items()}
    averages = dict(ema.average)
    for n in range(1, 1001):
        decay = min(0.999, (1 + n) / (10 + n))
        for name, p in parameters.items():
            p.set_value(rng.normal(size=shapes[name]).astype(dtype))
            expected[name] = decay * expected[name] + (1 - decay) * p.numpy()
        ema.update()
    for name, average in ema.average.items():
        assert average is averages[name] and average.dtype == paddle.float32
        np.testing.assert_allclose(average.numpy(), expected[name], rtol=0, atol=1e-6)


def test_an_average_of_equal_values_stays_bit_for_bit():
    p = paddle.create_parameter([100], "float32")
    p.set_value(np.random.default_rng(0).normal(size=100).astype("float32"))
    ema = EMA({"p": p}, decay=0.9998)
    for _ in range(50):
        ema.update()
    np.testing.assert_array_equal(ema.average["p"].numpy(), p.numpy())
