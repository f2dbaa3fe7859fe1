"""Schedules against their formulas, groups by name, optimizers against NumPy in float64."""

import math

import numpy as np
import paddle
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.distributed.clip import clip_gradients
from ernie_vil2.errors import UserError
from ernie_vil2.training.fused_adamw import FusedAdamW
from ernie_vil2.training.optim import (
    build_optimizer,
    build_scheduler,
    format_groups,
    learning_rate_factor,
    parameter_groups,
)

RULES = load_config("configs/base.yaml").Optimizer.groups


def test_schedules():
    cosine = learning_rate_factor("Cosine", 10, 110, 0.1)
    assert [cosine(0), cosine(9)] == pytest.approx([0.1, 1.0])
    assert cosine(60) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert [cosine(110), cosine(500)] == pytest.approx([0.1, 0.1])
    linear = learning_rate_factor("Linear", 0, 100, 0.0)
    assert [linear(0), linear(25), linear(100)] == pytest.approx([1.0, 0.75, 0.0])
    assert learning_rate_factor("Constant", 0, 100, 0.0)(99) == 1.0
    assert learning_rate_factor("Cosine", 5, 3, 0.0)(3) == pytest.approx(0.8)  # ends in warm-up


def test_scheduler_resumes_at_any_step():
    node = {"name": "Cosine", "learning_rate": 0.2, "warmup_steps": 3, "min_lr": 0.0}
    stepped, jumped = build_scheduler(node, 20), build_scheduler(node, 20)
    for _ in range(7):
        stepped.step()
    jumped.step(7)
    for _ in range(5):
        assert stepped.get_lr() == jumped.get_lr() > 0
        stepped.step()
        jumped.step()


@pytest.mark.parametrize(
    "name,decays",
    [
        ("model.temperature", False),
        ("model.image_tower.backbone.blocks.0.norm1.weight", False),
        ("model.image_tower.backbone.ln_pre.weight", False),
        ("model.image_tower.backbone.pos_embed", False),
        ("model.image_tower.backbone.cls_token", False),
        ("model.image_tower.backbone.patch_embed.proj.bias", False),
        ("model.text_tower.ernie.embeddings.word_embeddings.weight", False),
        ("model.text_tower.ernie.embeddings.layer_norm.weight", False),
        ("model.text_tower.ernie.encoder.layers.3.norm2.bias", False),
        ("loss.temperature_image1_image2", False),
        ("model.image_tower.backbone.blocks.0.attn.qkv.weight", True),
        ("model.text_tower.ernie.encoder.layers.0.linear1.weight", True),
        ("model.image_projection.weight", True),
    ],
)
def test_base_rules_keep_decay_to_matrices(name, decays):
    (group,) = parameter_groups([name], RULES, 0.1, {})
    assert group.weight_decay == (0.1 if decays else 0.0)


def test_first_rule_wins_and_scales_multiply():
    rules = [{"match": "a", "lr_scale": 0.5}, {"match": ".", "weight_decay": 0.0}]
    groups = parameter_groups(["ab", "b", "ac"], rules, 0.1, {"ab": 0.2})
    assert [tuple(g) for g in groups] == [
        (0.1, 0.1, ["ab"]),
        (0.0, 1.0, ["b"]),
        (0.1, 0.5, ["ac"]),
    ]


def test_mistakes_in_rules():
    with pytest.raises(UserError, match="no rule matches b"):
        parameter_groups(["b"], [{"match": "a"}], 0.1, {})
    with pytest.raises(UserError, match="regular expression"):
        parameter_groups(["b"], [{"match": "("}], 0.1, {})


def adamw(w, gradients, lr, decay, beta1=0.9, beta2=0.98, epsilon=1e-6):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        w = w * (1 - lr * decay)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return w


def lamb(w, gradients, lr, decay, beta1=0.9, beta2=0.98, epsilon=1e-6):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon) + decay * w
        # without decay Paddle's LAMB adapts no rate
        w = w - lr * (np.linalg.norm(w) / np.linalg.norm(r) if decay else 1.0) * r
    return w


@pytest.mark.parametrize(
    "name,formula,fused",
    [("AdamW", adamw, "false"), ("AdamW", adamw, "true"), ("Lamb", lamb, "true")],
)
def test_optimizers_honour_groups_and_clipping(name, formula, fused):
    overrides = [f"Optimizer.name={name}", f"Optimizer.fused={fused}"]
    config = load_config("configs/base.yaml", overrides).Optimizer
    rng = np.random.default_rng(0)
    start = {f"p{i}": rng.normal(size=5) for i in range(3)}
    parameters = {
        key: paddle.create_parameter(
            [5], "float32", default_initializer=paddle.nn.initializer.Assign(value)
        )
        for key, value in start.items()
    }
    rules = [{"match": "0"}, {"match": "1", "weight_decay": 0.0}, {"match": "2", "lr_scale": 0.25}]
    groups = parameter_groups(parameters, rules, 0.1, {})
    schedule = {"name": "Constant", "learning_rate": 0.01, "warmup_steps": 0, "min_lr": 0.0}
    optimizer = build_optimizer(config, groups, parameters, build_scheduler(schedule, 9))
    assert isinstance(optimizer, FusedAdamW) == ((name, fused) == ("AdamW", "true"))
    history = []
    for _ in range(4):
        gradients = {key: rng.normal(size=5) for key in start}
        total = sum(
            (parameters[k] * paddle.to_tensor(g.astype("float32"))).sum()
            for k, g in gradients.items()
        )
        total.backward()
        clip_gradients(parameters.values(), config.clip_norm)
        optimizer.step()
        optimizer.clear_grad()
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        assert norm > config.clip_norm
        history.append({k: g * config.clip_norm / norm for k, g in gradients.items()})
    for key, decay, lr in (("p0", 0.1, 0.01), ("p1", 0.0, 0.01), ("p2", 0.1, 0.0025)):
        expected = formula(start[key], [g[key] for g in history], lr, decay)
        np.testing.assert_allclose(parameters[key].numpy(), expected, atol=1e-6)
    assert len(format_groups(groups, parameters).splitlines()) == 4
