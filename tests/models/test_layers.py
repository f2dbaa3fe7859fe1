"""Layers with gradients of their own, against Paddle's in float32 and float64."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from ernie_vil2.models import layers
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.models.image import ImageTower
from ernie_vil2.models.text import TextTower

IMAGE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 12,
}
BOUNDS = {"float32": 2e-6, "float64": 1e-12}


def own(layer):
    layers.use_own_layers(layer)
    return layer


def stock_quick_gelu(x):
    return x * F.sigmoid(1.702 * x)


def numbers(layer, function, x):
    """The output and all gradients, by name."""
    x = paddle.to_tensor(x, stop_gradient=False)
    y = function(x)
    y.backward(paddle.linspace(-1, 1, y.size).reshape(y.shape).astype(y.dtype))
    found = {"y": y.numpy(), "x": x.grad.numpy()}
    if layer is not None:
        found.update((name, p.grad.numpy()) for name, p in layer.named_parameters())
        layer.clear_gradients()
    return found


def assert_equal(found, expected, bound):
    assert found.keys() == expected.keys()
    floor = max(np.abs(x).max() for x in expected.values()) / 1000
    for name, x in expected.items():
        error = np.abs(found[name] - x).max() / max(np.abs(x).max(), floor)
        assert error < bound, (name, error)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(24, 40), lambda: nn.LayerNorm(24, epsilon=1e-5), nn.GELU]
)
def test_gradients_are_those_of_paddles_layer(make, dtype):
    paddle.seed(0)
    layer = make().to(dtype=dtype)
    for parameter in layer.parameters():
        parameter.set_value(paddle.randn(parameter.shape, dtype))
    x = 3 * np.random.default_rng(0).standard_normal([4, 5, 24]).astype(dtype)
    expected = numbers(layer, layer, x)
    assert type(own(layer)) in (layers.Linear, layers.LayerNorm, layers.GELU)
    assert_equal(numbers(layer, layer, x), expected, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_quick_gelu(dtype):
    x = np.linspace(-12, 12, 999).astype(dtype)
    found = numbers(None, layers.QuickGELU(), x)
    assert_equal(found, numbers(None, stock_quick_gelu, x), BOUNDS[dtype])


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 8), lambda: nn.LayerNorm(8)])
def test_frozen_weights_get_no_gradient_and_frozen_inputs_none(make):
    layer, x = own(make()), paddle.randn([3, 8])
    layer(x).sum().backward()
    assert layer.weight.grad is not None and x.grad is None
    layer, x.stop_gradient = own(make()), False
    layer.weight.stop_gradient = True
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None and x.grad is not None


def stock_image(tower, pixels):
    """PaddleClas's own blocks, all tokens to the end."""
    vit = tower.backbone
    x = vit.patch_embed(pixels)[0]
    x = paddle.concat([vit.cls_token.expand([x.shape[0], -1, -1]), x], 1) + vit.pos_embed
    x = vit.ln_pre(x)
    for block in vit.blocks:
        qkv = nn.Linear.forward(block.attn.qkv, block.norm1(x))
        query, key, value = qkv.reshape([x.shape[0], x.shape[1], 3, 3, 16]).transpose(
            [2, 0, 3, 1, 4]
        )
        shares = F.softmax(query.matmul(key.transpose([0, 1, 3, 2])) * 16**-0.5)
        mixed = shares.matmul(value).transpose([0, 2, 1, 3]).reshape(x.shape)
        x = x + F.linear(mixed, block.attn.proj.weight, block.attn.proj.bias)
        hidden = F.linear(block.norm2(x), block.mlp.fc1.weight, block.mlp.fc1.bias)
        x = x + F.linear(stock_quick_gelu(hidden), block.mlp.fc2.weight, block.mlp.fc2.bias)
    return vit.norm(x)[:, 0]


def stock_text(tower, input_ids):
    """PaddleNLP's own forward, with Paddle's layers, all tokens to the end."""
    ernie = tower.ernie
    x = ernie.embeddings(input_ids)
    mask = (input_ids == 0).astype(x.dtype).unsqueeze([1, 2]) * -1e4
    for block in ernie.encoder.layers:
        x = nn.TransformerEncoderLayer.forward(block, x, mask)
    return ernie.pooler(x)


def tower_numbers(tower, function, inputs):
    y = function(inputs)
    y.backward(paddle.linspace(-1, 1, y.size).reshape(y.shape))
    found = {name: p.grad.numpy() for name, p in tower.named_parameters()}
    tower.clear_gradients()
    return {"y": y.numpy(), **found}


def test_image_tower_is_paddleclas_blocks():
    paddle.seed(0)
    tower = ImageTower("CLIP_vit_base_patch16_224", **IMAGE)
    pixels = paddle.randn([2, 3, 32, 32])
    found = tower_numbers(tower, tower, pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "takes_own_gradient", lambda x: False)
        expected = tower_numbers(tower, lambda x: stock_image(tower, x), pixels)
    assert_equal(found, expected, 1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_text_tower_is_paddlenlps_blocks(dropout):
    """With dropout the last block draws for one token; of one block before it all draws agree."""
    paddle.seed(0)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    tower = TextTower("own", **TEXT, **rates)
    if dropout:
        last = tower.ernie.encoder.layers[-1]
        for layer in last.sublayers():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        last.self_attn.dropout = 0.0
    input_ids = paddle.randint(3, 50, [3, 8])
    input_ids[1, 5:] = 0
    paddle.seed(1)
    found = tower_numbers(tower, tower, input_ids)
    paddle.seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "takes_own_gradient", lambda x: False)
        expected = tower_numbers(tower, lambda x: stock_text(tower, x), input_ids)
    assert_equal(found, expected, 1e-5)


def test_fused_attention_is_the_same(monkeypatch):
    """Its arithmetic and layout, by what Paddle puts in the kernel's place on a CPU."""
    paddle.seed(0)
    tower = ImageTower("CLIP_vit_base_patch16_224", **IMAGE)
    pixels = paddle.randn([2, 3, 32, 32])
    expected = tower_numbers(tower, tower, pixels)
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(layers, "has_flash_attention", lambda x: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x: calls.append(1) or fused(*x))
    assert_equal(tower_numbers(tower, tower, pixels), expected, 1e-5)
    assert calls == [1]  # of two blocks the last has one query, and needs none
    tower.backbone.fuse_attention(False)
    assert_equal(tower_numbers(tower, tower, pixels), expected, 1e-12)
    assert calls == [1]


@pytest.mark.parametrize("name", ["image_tower", "text_tower"])
def test_fused_biases_are_the_same(monkeypatch, name):
    """By what Paddle has for a CPU in the kernel's place."""
    arch = {
        "Image": {"name": "CLIP_vit_base_patch16_224", **IMAGE},
        "Text": {"name": "own", **TEXT},
    }
    paddle.seed(0)
    model = build_model({**arch, "fused_bias": True})
    images = name == "image_tower"
    batch = paddle.randn([2, 3, 32, 32]) if images else paddle.randint(3, 50, [3, 8])
    tower = getattr(model, name)
    tower.eval()
    expected = tower_numbers(tower, tower, batch)
    calls = []
    monkeypatch.setattr(layers, "has_fused_bias", lambda x: True)
    monkeypatch.setattr(layers, "fused_linear", lambda *x: calls.append(1) or F.linear(*x))
    assert_equal(tower_numbers(tower, tower, batch), expected, 1e-5)
    assert len(calls) > 5
    calls.clear()
    getattr(build_model(arch), name)(batch)
    assert not calls


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quick_gelu_by_silu_is_the_same(dtype):
    x = paddle.linspace(-30, 30, 401).astype(dtype)
    x.stop_gradient = False
    y = layers.quick_gelu_by_silu(x)
    y.sum().backward()
    z = x.numpy().astype("float64")
    gate = 1 / (1 + np.exp(-1.702 * z))
    bound = {"float32": 1e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(y.numpy(), z * gate, rtol=bound, atol=bound)
    slope = gate * (1 + 1.702 * z * (1 - gate))
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=4 * bound, atol=4 * bound)


def test_flash_attention_wants_a_gpu_in_half_precision():
    assert not layers.has_flash_attention(paddle.randn([2, 3]))
    assert not layers.has_flash_attention(paddle.randn([2, 3]).astype("bfloat16"))


def test_the_last_blocks_give_one_token_and_their_hooks_run():
    image, text = ImageTower("CLIP_vit_base_patch16_224", **IMAGE), TextTower("own", **TEXT)
    shapes = []
    for block in (image.backbone.blocks[-1], text.ernie.encoder.layers[-1]):
        block.register_forward_post_hook(lambda layer, x, y: shapes.append(y.shape))
    inner = image.backbone.blocks[-1].attn.qkv
    inner.register_forward_pre_hook(lambda layer, x: shapes.append("fetched"))
    image(paddle.randn([2, 3, 32, 32]))
    text(paddle.randint(3, 50, [3, 8]))
    assert shapes == ["fetched", [2, 1, 48], [3, 1, 48]]
