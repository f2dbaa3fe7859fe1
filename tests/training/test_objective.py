"""Accumulated gradients are those of the whole batch in one graph, dropout and all."""

import numpy as np
import paddle
import pytest

from ernie_vil2.distributed.replicated import Replicated
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.training.objective import Objective, backward
from tests.support.scripts.distributed_step import ARCH, PAIRS

ROWS = 9
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
VIEWS = (["image1", "image2"], ["text1", "text2"])


def build(chunk=None, **arch):
    paddle.seed(0)
    sections = {**ARCH, "Text": {**ARCH["Text"], **DROPOUT, **arch.get("Text", {})}}
    sections["Image"] = {**ARCH["Image"], **arch.get("Image", {})}
    objective = Objective(build_model(sections), MultiViewContrastive(PAIRS, chunk=chunk), *VIEWS)
    objective.train()
    return objective


def data():
    rng = np.random.default_rng(1)
    return {
        "pixel_values": rng.normal(size=[2, ROWS, 3, 16, 16]).astype("float32"),
        "input_ids": rng.integers(3, 40, size=[2, ROWS, 8]),
        "ids": {
            "image": np.array([1, 2, 3, 4, 1, 6, 3, 8, 9]),
            "text": np.array([1, 2, 2, 4, 5, 6, 7, 8, 5]),
        },
        "valid": np.array([True] * 6 + [False] + [True] * 2),
    }


def micro_batches(size):
    whole, tensor = data(), paddle.to_tensor
    parts = []
    for start in range(0, ROWS, size):
        rows = slice(start, min(start + size, ROWS))
        parts.append(
            {
                "pixel_values": tensor(whole["pixel_values"][:, rows].reshape(-1, 3, 16, 16)),
                "input_ids": tensor(whole["input_ids"][:, rows].reshape(-1, 8)),
                "ids": {s: tensor(x[rows]) for s, x in whole["ids"].items()},
                "valid": tensor(whole["valid"][rows]),
            }
        )
    return parts


def alone(objective):
    return Replicated(objective, dict(objective.named_parameters()))


def whole_graph(objective, parts, seeds):
    """The reference: all micro-batches with these masks in one graph, one backward."""
    embeds = []
    for part, seed in zip(parts, seeds):
        paddle.seed(seed)
        embeds.append(objective.embed(part["pixel_values"], part["input_ids"]))
    joined = {view: paddle.concat([e[view] for e in embeds]) for view in embeds[0]}
    ids = {s: paddle.concat([part["ids"][s] for part in parts]) for s in parts[0]["ids"]}
    valid = paddle.concat([part["valid"] for part in parts])
    losses = objective.score(joined, ids, valid)
    losses["loss"].backward()
    return losses


def assert_equal_gradients(one, other, tolerance=1e-5):
    largest = max(np.abs(p.grad.numpy()).max() for p in one.parameters())
    gradients = dict(other.named_parameters())
    for name, p in one.named_parameters():
        expected, found = p.grad.numpy(), gradients[name].grad.numpy()
        error = np.abs(expected - found).max()
        assert error <= tolerance * np.abs(expected).max() + 1e-6 * largest, (name, error)


@pytest.mark.parametrize("size,chunk", [(4, None), (3, None), (1, 4), (8, 2)])
def test_accumulation_equals_one_graph(size, chunk):
    one, other = build(), build(chunk)
    parts = micro_batches(size)
    seeds = list(range(100, 100 + len(parts)))
    expected = whole_graph(one, parts, seeds)
    losses = backward(alone(other), parts, seeds, lambda loss: loss)
    for name in expected:
        assert float(losses[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    assert_equal_gradients(one, other)


@pytest.mark.parametrize("recompute", [False, True])
def test_patches_are_dropped_alike_in_both_passes(recompute):
    image = {"patch_dropout": 0.5}
    one, other = build(Image=image), build(Image={**image, "recompute": recompute})
    parts, seeds = micro_batches(4), [1, 2, 3]
    whole_graph(one, parts, seeds)
    backward(alone(other), parts, seeds, lambda loss: loss)
    assert_equal_gradients(one, other)


def test_other_masks_would_show():
    """The comparison above is able to fail: dropout masks matter."""
    one, other = build(), build()
    parts = micro_batches(3)
    whole_graph(one, parts, [1, 2, 3])
    backward(alone(other), parts, [4, 5, 6], lambda loss: loss)
    with pytest.raises(AssertionError):
        assert_equal_gradients(one, other, tolerance=1e-3)


def test_one_micro_batch_is_the_plain_way():
    one, other = build(), build()
    (part,) = micro_batches(ROWS)
    whole_graph(one, [part], [7])
    backward(alone(other), [part], [7], lambda loss: loss)
    assert_equal_gradients(one, other, tolerance=0)


def test_with_recompute_and_a_loss_scale():
    one, other = build(), build(Image={"recompute": True}, Text={"recompute": True})
    parts, seeds = micro_batches(4), [1, 2, 3]
    whole_graph(one, parts, seeds)
    backward(alone(other), parts, seeds, lambda loss: loss * 1024.0)
    for p in other.parameters():
        p.grad.set_value(p.grad / 1024.0)
    assert_equal_gradients(one, other)


def test_a_frozen_tower_gets_no_gradient():
    one, other = build(), build()
    for objective in (one, other):
        for p in objective.model.image_tower.parameters():
            p.stop_gradient = True
    parts, seeds = micro_batches(4), [1, 2, 3]
    whole_graph(one, parts, seeds)
    backward(alone(other), parts, seeds, lambda loss: loss)
    gradients = dict(one.named_parameters())
    for name, p in other.named_parameters():
        if p.stop_gradient:
            assert p.grad is None
        else:
            assert np.allclose(p.grad.numpy(), gradients[name].grad.numpy(), rtol=1e-4, atol=1e-7)


def test_batches_add_up():
    """As gradient merge needs it: two batches, each with its own negatives, and one step."""
    one, other = build(), build()
    parts = micro_batches(3)
    for batch in (parts[:1], parts[1:]):
        seeds = list(range(len(batch)))
        whole_graph(one, batch, seeds)
        backward(alone(other), batch, seeds, lambda loss: loss)
    assert_equal_gradients(one, other)
