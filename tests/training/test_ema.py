"""The moving average against its formula."""

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
