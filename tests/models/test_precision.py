"""What a device can do, and how forwards cast on a CPU."""

import numpy as np
import paddle
import pytest
from paddle.base.framework import _dygraph_tracer

from ernie_vil2 import distributed
from ernie_vil2.errors import UserError
from ernie_vil2.models import precision
from ernie_vil2.models.precision import auto_cast, check_precision, halve
from ernie_vil2.models.recompute import recompute_block


def amp(level, dtype="bfloat16"):
    return {"level": level, "dtype": dtype}


@pytest.mark.parametrize(
    "capability,dtype,said",
    [
        ((7, 5), "bfloat16", ["AMP.dtype is bfloat16", "8.0 or higher", "7.5", "to float16"]),
        ((6, 1), "bfloat16", ["8.0 or higher", "6.1", "AMP.level to O0"]),
        ((6, 1), "float16", ["AMP.dtype is float16", "7.0 or higher", "6.1", "AMP.level to O0"]),
        ((8, 0), "bfloat16", None),
        ((9, 0), "bfloat16", None),
        ((7, 0), "float16", None),
    ],
)
def test_a_gpu_that_is_too_old_is_refused(monkeypatch, capability, dtype, said):
    monkeypatch.setattr(distributed, "on_gpu", lambda: True)
    monkeypatch.setattr(precision, "compute_capability", lambda: capability)
    check_precision(amp("O0", dtype))
    if said is None:
        return check_precision(amp("O1", dtype))
    with pytest.raises(UserError) as caught:
        check_precision(amp("O1", dtype))
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in said)


def test_float16_on_a_cpu_is_refused():
    check_precision(amp("O2", "bfloat16"))
    with pytest.raises(UserError, match=r"AMP\.dtype float16.*CPU.*bfloat16"):
        check_precision(amp("O1", "float16"))


class Layer(paddle.nn.Layer):
    """Of all kinds: halved, normalising, and one that keeps its own."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = paddle.nn.Linear(4, 4), paddle.nn.LayerNorm(4)
        self.inner = Inner()

    def forward(self, x):
        return self.norm(self.inner(self.linear(x)))


class Inner(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter(
            [1], default_initializer=paddle.nn.initializer.Constant(2.0)
        )
        self.table = paddle.nn.Embedding(3, 4)

    def forward(self, x):
        return x * self.scale + self.table(paddle.to_tensor([1]))


def test_halves_are_all_but_norms_and_what_is_to_be_kept():
    paddle.seed(0)
    layer = Layer()
    before = {name: p.numpy() for name, p in layer.named_parameters()}
    originals = halve(layer, "bfloat16", keep=(Inner,))
    halves = {"linear.weight", "linear.bias", "inner.table.weight"}
    assert originals.keys() == halves
    for name, p in layer.named_parameters():
        assert p.dtype == (paddle.bfloat16 if name in halves else paddle.float32), name
        if name in halves:
            assert np.array_equal(originals[name].numpy(), before[name])
            assert originals[name].dtype == paddle.float32


@pytest.mark.parametrize("recompute", [False, True])
def test_on_a_cpu_operators_take_halves_and_compute_in_float32(recompute):
    paddle.seed(0)
    layer = Layer()
    halve(layer, "bfloat16", keep=(Inner,))
    x = paddle.randn([2, 4])
    level = _dygraph_tracer()._amp_level
    with auto_cast(amp("O2")):
        out = recompute_block(layer, x) if recompute else layer(x)
        with paddle.amp.auto_cast(enable=False):
            assert (x * x).dtype == paddle.float32
        total = (out * paddle.arange(8.0).reshape([2, 4])).sum()
    assert _dygraph_tracer()._amp_level == level
    assert out.dtype == paddle.float32
    total.backward()
    assert layer.linear.weight.grad.dtype == paddle.bfloat16

    weights = {name: p.astype("float32").numpy() for name, p in layer.named_parameters()}
    full = Layer()
    full.set_state_dict(weights)
    expected = full(x)
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)
    (expected * paddle.arange(8.0).reshape([2, 4])).sum().backward()
    found, right = layer.linear.weight.grad.astype("float32"), full.linear.weight.grad
    np.testing.assert_allclose(found.numpy(), right.numpy(), rtol=2**-7, atol=1e-5)


def test_o0_casts_nothing():
    with auto_cast(amp("O0")):
        assert (paddle.ones([2]) * paddle.ones([2])).dtype == paddle.float32
