"""Adapters beside linear layers: what they add, what learns, and their sum with the weights."""

import copy

import numpy as np
import paddle
import pytest
from paddlenlp.peft.lora.lora_layers import LoRALinear

from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError
from ernie_vil2.models import lora
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.models.image import ImageTower
from ernie_vil2.models.lora import adapted, is_adapter, merge_adapters
from ernie_vil2.models.text import TextTower
from tests.support.paths import ROOT
from tests.support.scripts.distributed_step import ARCH

ALL = {"rank": 3, "alpha": 6.0, "modules": ".", "dropout": 0.0}
VIT = {**ARCH["Image"], "depth": 2}
RESNET = {"name": "CLIP_rn50", "img_size": 32, "embed_dim": 64, "out_dim": 16}
ERNIE = {**ARCH["Text"], "num_hidden_layers": 2}
PIXELS = np.random.default_rng(0).normal(size=[3, 3, 32, 32]).astype("float32")
TOKENS = np.random.default_rng(1).integers(3, 40, size=[3, 8])


def adapt(layer, seed=0):
    """Give adapters numbers that change the function."""
    rng = np.random.default_rng(seed)
    for name, parameter in layer.named_parameters():
        if is_adapter(name):
            parameter.set_value(rng.normal(0, 0.2, parameter.shape).astype("float32"))


def test_an_adapter_is_paddlenlps():
    theirs = LoRALinear(6, 5, r=2, lora_alpha=8, merge_weights=False)
    ours = paddle.nn.Sequential(paddle.nn.Linear(6, 5))
    lora.add_adapters(ours, {**ALL, "rank": 2, "alpha": 8.0}, "Arch.Image")
    bound = 1 / np.sqrt(6)  # both begin A within it, and B at zero
    for layer in (ours[0], theirs):
        assert 0.2 * bound < abs(layer.lora_A.numpy()).max() <= bound
        assert not layer.lora_B.numpy().any()
    adapt(theirs)
    ours[0].set_state_dict(theirs.state_dict())
    x = paddle.randn([4, 7, 6])
    assert np.allclose(ours(x).numpy(), theirs(x).numpy(), atol=1e-6)
    assert {n for n, p in ours[0].named_parameters() if not p.stop_gradient} == {"lora_A", "lora_B"}


@pytest.mark.parametrize(
    "tower,given,inputs,count",
    [
        (ImageTower, VIT, PIXELS[..., :16, :16], 8),
        (ImageTower, RESNET, PIXELS, 4),  # linear layers alone: the attention that pools
        (TextTower, ERNIE, TOKENS, 13),
        (TextTower, {**ERNIE, "kind": "bert"}, TOKENS, 12),
    ],
    ids=["ViT", "ResNet", "ERNIE", "BERT"],
)
def test_merged_is_adapted_and_so_are_the_gradients(tower, given, inputs, count):
    """The chain rule from the merged weights' gradients G, in float64: dA = s G B', dB = s A' G."""
    paddle.seed(1)
    model = tower(**given, lora=ALL)
    model.arch = {"Image": {}, "Text": {}}
    model.eval()
    x = paddle.to_tensor(inputs)
    before = model(x).numpy()
    adapt(model)
    found = adapted(model)
    assert len(found) == count
    merged = copy.deepcopy(model)
    assert merge_adapters(merged) == count
    assert not [name for name in merged.state_dict() if is_adapter(name)]
    for parameter in merged.parameters():
        parameter.stop_gradient = False
    ours, whole = model(x), merged(x)
    assert abs(ours.numpy() - before).max() > 0.01
    assert abs(ours.numpy() - whole.numpy()).max() <= 1e-5
    slope = paddle.randn(ours.shape)
    (ours * slope).sum().backward()
    (whole * slope).sum().backward()
    weights = dict(merged.named_parameters())
    for name, layer in found.items():
        # the probe of a ResNet's width leaves zeros
        assert layer.weight.grad is None or not layer.weight.grad.numpy().any(), name
        gradient = weights[f"{name}.weight"].grad.numpy().astype("f8")
        low, up = layer.lora_A.numpy().astype("f8"), layer.lora_B.numpy().astype("f8")
        for parameter, expected in (
            (layer.lora_A, 2 * gradient @ up.T),
            (layer.lora_B, 2 * low.T @ gradient),
        ):
            error = abs(parameter.grad.numpy() - expected).max()
            assert error <= 1e-4 * abs(expected).max() + 1e-6, name


def test_dropout_is_of_training_alone():
    layer = paddle.nn.Sequential(paddle.nn.Linear(64, 5))
    lora.add_adapters(layer, {**ALL, "dropout": 0.9}, "Arch.Image")
    adapt(layer)
    x = paddle.ones([1, 64])
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    layer.eval()
    assert np.array_equal(layer(x).numpy(), layer(x).numpy())


@pytest.mark.parametrize(
    "change,said",
    [
        ({"modules": "q_prj"}, "Arch.Text.lora.modules 'q_prj' is found in no linear layer's name"),
        ({"rank": 17}, "Arch.Text.lora.rank is 17, but ernie.encoder.layers.0.self_attn.q_proj"),
    ],
)
def test_settings_that_fit_no_layer_are_one_line(change, said):
    with pytest.raises(UserError, match=said) as error:
        TextTower(**ERNIE, lora={**ALL, **change})
    assert "expected" in str(error.value) and "\n" not in str(error.value)


def test_a_tower_without_linear_layers_says_so():
    with pytest.raises(UserError, match="the tower has none"):
        ImageTower("PPLCNet_x0_25", img_size=32, lora=ALL)


def test_modules_choose_layers():
    tower = TextTower(**ERNIE, lora={**ALL, "modules": r"layers\.1\..*(q|v)_proj$"})
    layer = "ernie.encoder.layers.1.self_attn."
    assert list(adapted(tower)) == [f"{layer}q_proj", f"{layer}v_proj"]


def test_under_two_percent_learn_at_base_size():
    """base.yaml's widths with one block a tower and few words; the others are like it."""
    arch = load_config(ROOT / "configs" / "base.yaml").Arch.to_dict()
    blocks, words = arch["Image"]["depth"], arch["Text"]["vocab_size"]
    assert blocks == arch["Text"]["num_hidden_layers"] == 12
    arch["Image"]["depth"] = arch["Text"]["num_hidden_layers"] = 1
    arch["Text"].update(vocab_size=8)
    for tower in ("Image", "Text"):
        arch[tower]["lora"]["rank"] = 8
    sizes = {False: 0, True: 0}  # whether it learns
    for name, parameter in build_model(arch).named_parameters():
        copies = blocks if "blocks.0." in name or "layers.0." in name else 1
        sizes[not parameter.stop_gradient] += copies * int(np.prod(parameter.shape))
    sizes[False] += (words - 8) * arch["Text"]["hidden_size"]
    assert sizes[False] + 1 == 203_738_881  # with the temperature, the whole model's
    assert sizes[True] == 2_519_041
    assert sizes[True] < 0.02 * sum(sizes.values())  # 1.2 %, a checkpoint of 10.1 MB
