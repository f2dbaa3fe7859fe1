"""The loss against the official number, and against float64 sums written out by hand."""

import itertools

import numpy as np
import paddle
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.losses.multiview import DEFAULT_PAIRS, MultiViewContrastive

SIX = ("image1", "image2", "caption1", "caption2", "tags1", "tags2")


def unit_rows(rows, dim, seed):
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def reference(a, b, scale, same, valid):
    """Symmetric multi-positive cross-entropy, one row at a time, in float64."""

    def one_way(x, y):
        losses, right = [], []
        columns = np.flatnonzero(valid)
        for i in columns:
            logits = scale * (y[columns] @ x[i])
            log_total = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
            positive = same[i, columns]
            losses.append(np.mean(log_total - logits[positive]))
            right.append(logits[positive].max() > logits[~positive].max(initial=-np.inf))
        return np.mean(losses), np.mean(right)

    (ab, ab_right), (ba, ba_right) = one_way(a, b), one_way(b, a)
    return (ab + ba) / 2, (ab_right + ba_right) / 2


def embeds_of(views, rows=7, dim=5):
    arrays = {view: unit_rows(rows, dim, seed) for seed, view in enumerate(views)}
    tensors = {
        v: paddle.to_tensor(a.astype("float32"), stop_gradient=False) for v, a in arrays.items()
    }
    return arrays, tensors


def test_equals_official_loss(fixtures_dir):
    io = np.load(fixtures_dir / "official_tiny" / "io.npz")
    embeds = {
        "image1": paddle.to_tensor(io["image_embeds_normalized"]),
        "text1": paddle.to_tensor(io["text_embeds_normalized"]),
    }
    scale = paddle.to_tensor(np.exp(io["temperature_b"]))
    losses = MultiViewContrastive(["image1-text1"])(embeds, scale)
    assert abs(float(losses["loss"]) - float(io["contrastive_loss"])) < 1e-5


@pytest.mark.parametrize("a,b", list(itertools.combinations(SIX, 2)))
def test_each_of_the_fifteen_pairs(a, b):
    arrays, tensors = embeds_of((a, b))
    ids = np.array([[1], [2], [3], [1], [5], [6], [7]])
    valid = np.array([True] * 6 + [False])
    losses = MultiViewContrastive([(a, b, 0.5)])(
        tensors, paddle.to_tensor([9.0]), paddle.to_tensor(ids), paddle.to_tensor(valid)
    )
    expected, accuracy = reference(arrays[a], arrays[b], 9.0, ids == ids.T, valid)
    assert float(losses[f"{a}-{b}"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses[f"{a}-{b}/accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert float(losses["loss"]) == pytest.approx(0.5 * expected, rel=1e-5)


def test_weighted_sum_and_default_pairs():
    arrays, tensors = embeds_of(("image1", "image2", "text1", "text2"))
    same, valid = np.eye(7, dtype=bool), np.ones(7, dtype=bool)
    losses = MultiViewContrastive()(tensors, paddle.to_tensor([5.0]))
    assert float(losses["loss"]) == float(MultiViewContrastive()(tensors, 5.0)["loss"])
    expected = sum(reference(arrays[a], arrays[b], 5.0, same, valid)[0] for a, b in DEFAULT_PAIRS)
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-5)


def test_gradients_by_finite_differences():
    arrays, tensors = embeds_of(("image1", "text1"))
    ids = np.array([[1, 10], [2, 20], [3, 10], [4, 40], [5, 50], [6, 60], [1, 70]])
    same = (ids[:, None] == ids[None]).any(-1)
    valid = np.array([True] * 5 + [False, True])
    scale = paddle.to_tensor([7.0], stop_gradient=False)
    loss = MultiViewContrastive(["image1-text1"])(
        tensors, scale, paddle.to_tensor(ids), paddle.to_tensor(valid)
    )["loss"]
    loss.backward()

    def value(arrays, scale=7.0):
        return reference(arrays["image1"], arrays["text1"], scale, same, valid)[0]

    step = 1e-6
    for view, i, j in itertools.product(arrays, range(7), range(5)):
        up, down = ({k: v.copy() for k, v in arrays.items()} for _ in range(2))
        up[view][i, j] += step
        down[view][i, j] -= step
        slope = (value(up) - value(down)) / (2 * step)
        assert float(tensors[view].grad[i, j]) == pytest.approx(slope, rel=1e-3, abs=1e-5)
    slope = (value(arrays, 7 + step) - value(arrays, 7 - step)) / (2 * step)
    assert float(scale.grad) == pytest.approx(slope, rel=1e-3)


def test_row_that_is_not_valid_has_no_influence():
    _, tensors = embeds_of(("image1", "text1"))
    loss, scale = MultiViewContrastive(["image1-text1"]), paddle.to_tensor([7.0])
    valid = paddle.to_tensor([True] * 6 + [False])
    with_it = loss(tensors, scale, valid=valid)["loss"]
    with_it.backward()
    without = loss({v: t[:6] for v, t in tensors.items()}, scale)["loss"]
    assert float(with_it) == pytest.approx(float(without), rel=1e-6)
    assert float(tensors["image1"].grad[6].abs().max()) == 0


def test_a_batch_without_valid_rows_has_loss_zero_and_finite_gradients():
    _, tensors = embeds_of(("image1", "text1"))
    loss = MultiViewContrastive(["image1-text1"])(
        tensors, paddle.to_tensor([7.0]), valid=paddle.zeros([7], dtype="bool")
    )["loss"]
    loss.backward()
    assert float(loss) == 0
    assert np.isfinite(tensors["text1"].grad.numpy()).all()


def test_equal_captions_are_not_negatives_unless_switched_off():
    """Two rows with one caption and collapsed texts: only as positives can they be right."""
    image = np.eye(4, dtype="float32")
    embeds = {"image1": paddle.to_tensor(image), "text1": paddle.to_tensor(image[[0, 0, 2, 3]])}
    ids = paddle.to_tensor([[1, 5], [2, 5], [3, 6], [4, 7]])
    scale = paddle.to_tensor([10.0])
    on = MultiViewContrastive(["image1-text1"])(embeds, scale, ids)
    off = MultiViewContrastive(["image1-text1"], multi_positive=False)(embeds, scale, ids)
    assert float(on["image1-text1/accuracy"]) > float(off["image1-text1/accuracy"])


def test_collapsed_embeddings_are_never_right():
    embeds = {view: paddle.ones([8, 4]) / 2 for view in ("image1", "text1")}
    losses = MultiViewContrastive(["image1-text1"])(embeds, paddle.to_tensor([14.0]))
    assert float(losses["image1-text1/accuracy"]) == 0
    assert float(losses["loss"]) == pytest.approx(np.log(8), rel=1e-5)


def test_own_temperatures():
    arrays, tensors = embeds_of(("image1", "image2"))
    same, valid = np.eye(7, dtype=bool), np.ones(7, dtype=bool)
    expected = reference(arrays["image1"], arrays["image2"], 1 / 0.1, same, valid)[0]
    for learnable in (False, True):
        pair = {"views": ["image1", "image2"], "temperature": 0.1, "learnable": learnable}
        loss = MultiViewContrastive([pair], max_logit_scale=8.0)
        value = loss(tensors, paddle.to_tensor([99.0]))["loss"]
        assert float(value) == pytest.approx(expected, rel=1e-5)
        value.backward()
        assert len(loss.parameters()) == learnable
        loss.clamp_temperatures()
        for log_scale in loss.parameters():
            assert float(log_scale.grad) != 0
            assert float(log_scale) == pytest.approx(np.log(8.0))


def test_half_precision_inputs_are_scored_in_float32():
    _, tensors = embeds_of(("image1", "text1"))
    loss, scale = MultiViewContrastive(["image1-text1"]), paddle.to_tensor([50.0])
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        mixed = loss(tensors, scale)["loss"]
    assert mixed.dtype == paddle.float32
    assert float(mixed) == float(loss(tensors, scale)["loss"])


def test_pairs_in_every_notation():
    as_text = MultiViewContrastive(["image1-text1"]).pairs
    assert as_text == MultiViewContrastive([("image1", "text1")]).pairs
    assert as_text == MultiViewContrastive([{"views": ["image1", "text1"]}]).pairs
    assert as_text == MultiViewContrastive({"image1-text1": 1.0}).pairs


@pytest.mark.parametrize(
    "pairs,said",
    [
        (["image1-txet1"], 'did you mean "text1"'),
        (["image1-image1"], "two different"),
        ([("image1",)], "is no pair"),
        ([{"views": ["image1", "text1"], "wieght": 1.0}], "is no pair"),
        (["image1-text1", "text1-image1"], "twice"),
        ([("image1", "text1", 0.0)], "weight above 0"),
        ([("image1", "text1", -1.0)], "weight -1.0"),
        ([("image1", "text1", 1.0, 0.0)], "temperature 0.0"),
    ],
)
def test_mistakes_in_pairs(pairs, said):
    with pytest.raises(UserError, match=said):
        MultiViewContrastive(pairs)


def test_missing_view():
    _, tensors = embeds_of(("image1", "text1"))
    with pytest.raises(UserError, match="image2"):
        MultiViewContrastive(["image1-image2"])(tensors, paddle.to_tensor([1.0]))
