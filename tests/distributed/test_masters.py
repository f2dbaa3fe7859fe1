"""float32 masters of half-precision weights."""

import numpy as np
import paddle

from ernie_vil2.distributed.masters import Masters
from ernie_vil2.distributed.memory import bytes_held
from ernie_vil2.distributed.replicated import Replicated


def halves():
    """A layer with a half-precision weight and a float32 bias, and what was rounded."""
    weight = paddle.create_parameter([3], "float32")
    weight.set_value(paddle.to_tensor([1.0, -0.3, 3.14159]))
    original = weight.detach().clone()
    owner = paddle.nn.Layer()
    owner.add_parameter("weight", weight)
    owner._to_impl(dtype="bfloat16", include_sublayers=False, floating_only=True)
    assert owner.weight.dtype == paddle.bfloat16
    bias = paddle.create_parameter([1], "float32", is_bias=True)
    owner.add_parameter("bias", bias)
    return owner, {"weight": original}


def add_gradient(owner, value):
    (owner.weight.astype("float32") * value).sum().backward()
    (owner.bias * value).sum().backward()


def test_gradients_of_several_backwards_are_added_in_float32():
    owner, originals = halves()
    masters = Masters(dict(owner.named_parameters()), originals)
    for value in [256.0] + 8 * [1.0]:  # bfloat16 has no 257
        add_gradient(owner, value)
    assert masters["weight"].grad.tolist() == [264.0] * 3
    assert masters["weight"].grad.dtype == paddle.float32
    assert owner.weight.grad is None
    assert masters["bias"] is owner.bias and owner.bias.grad.tolist() == [264.0]


def test_a_master_is_what_was_and_its_half_follows():
    owner, originals = halves()
    masters = Masters(dict(owner.named_parameters()), originals)
    np.testing.assert_array_equal(masters["weight"].numpy(), originals["weight"].numpy())
    assert masters["weight"].name == owner.weight.name
    before = owner.weight.astype("float32").numpy()
    optimizer = paddle.optimizer.AdamW(2e-4, parameters=list(masters.values()), weight_decay=0.0)
    for _ in range(50):  # each of them is lost to a bfloat16 of 1, which has 0.996 below it
        add_gradient(owner, 1.0)
        optimizer.step()
        optimizer.clear_grad()
        masters.round()
    expected = originals["weight"].numpy() - 50 * 2e-4
    np.testing.assert_allclose(masters["weight"].numpy(), expected, rtol=1e-4)
    half = owner.weight.astype("float32").numpy()
    assert (half != before).all()
    np.testing.assert_allclose(half, expected, rtol=2**-7)


def test_masters_of_others_are_freed_but_their_gradients_are_gathered():
    owner, originals = halves()
    masters = Masters(dict(owner.named_parameters()), originals)
    assert masters.full.keys() == {"weight"}
    masters.keep(["bias"])
    assert masters.full == {}
    add_gradient(owner, 1.0)
    add_gradient(owner, 2.0)
    assert masters["weight"].grad.tolist() == [3.0] * 3
    masters["weight"].clear_gradient(False)
    assert masters["weight"].grad is None
    masters.round()


def test_memory_counts_masters_and_their_gradients():
    owner, originals = halves()
    parallel = Replicated(owner, dict(owner.named_parameters()), originals)
    held = parallel.memory()
    assert held == {"parameters": 3 * 2 + 4, "gradients": 0, "optimizer": 3 * 4}
    add_gradient(owner, 1.0)
    assert parallel.memory()["gradients"] == 4 * 4
    assert bytes_held(owner.parameters())["gradients"] == 4
