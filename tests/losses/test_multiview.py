"""The loss against the official number; what pairs, temperatures and biases may be.

What the numbers must be, for both paths, stands in test_chunked.py.
"""

import numpy as np
import paddle
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.losses.multiview import MultiViewContrastive
from ernie_vil2.views import DEFAULT_PAIRS
from tests.support import reference
from tests.support.reference import unit_rows


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


def test_weighted_sum_and_default_pairs():
    arrays, tensors = embeds_of(("image1", "image2", "text1", "text2"))
    losses = MultiViewContrastive()(tensors, paddle.to_tensor([5.0]))
    assert float(losses["loss"]) == float(MultiViewContrastive()(tensors, 5.0)["loss"])
    pairs = [(a, b, 1.0, 5.0, None) for a, b in DEFAULT_PAIRS]
    expected = reference.multi_view(arrays, pairs)["loss"]
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-5)
    by_name = {f"{a}-{b}": weight for weight, (a, b) in enumerate(DEFAULT_PAIRS, start=1)}
    weighted = MultiViewContrastive(by_name)(tensors, 5.0)["loss"]
    pairs = [(a, b, weight, 5.0, None) for weight, (a, b) in enumerate(DEFAULT_PAIRS, start=1)]
    assert float(weighted) == pytest.approx(reference.multi_view(arrays, pairs)["loss"], rel=1e-5)


def test_where_texts_are_equal_the_diagonal_softmax_has_the_same_gradient_but_the_sigmoid_not():
    """As where a class name is the only caption of many images: docs/finetuning.md says so.

    Cross-entropy is linear in its target, and over the rows of one class the diagonal's targets
    average to those of the class. What differs is the accuracy, which the diagonal cannot reach.
    """
    classes = np.array([0, 1, 0, 2, 0, 1])
    images, texts = unit_rows(6, 5, 1), unit_rows(3, 5, 2)
    ids = {"text": paddle.to_tensor(classes), "image": paddle.arange(6)}

    def learn(positives, pair):
        image = paddle.to_tensor(images.astype("float32"), stop_gradient=False)
        text = paddle.to_tensor(texts.astype("float32"), stop_gradient=False)
        embeds = {"image1": image, "text1": text.gather(paddle.to_tensor(classes))}
        loss = MultiViewContrastive([pair], multi_positive=positives)
        result = loss(embeds, paddle.to_tensor([7.0]), ids=ids)
        result["loss"].backward()
        return image.grad.numpy(), text.grad.numpy(), float(result["image1-text1/accuracy"])

    softmax = {"views": ["image1", "text1"]}
    ours, diagonal = learn(True, softmax), learn(False, softmax)
    np.testing.assert_allclose(ours[0], diagonal[0], atol=1e-6)
    np.testing.assert_allclose(ours[1], diagonal[1], atol=1e-6)
    assert np.abs(ours[0]).max() > 1e-2
    assert diagonal[2] <= 3 / 6  # an image of three, and of two, cannot be told from the others
    sigmoid = {**softmax, "loss": "sigmoid", "bias": -2.0}
    assert np.abs(learn(True, sigmoid)[0] - learn(False, sigmoid)[0]).max() > 0.1


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
    ids = {"image": paddle.to_tensor([1, 2, 3, 4]), "text": paddle.to_tensor([5, 5, 6, 7])}
    scale = paddle.to_tensor([10.0])
    on = MultiViewContrastive(["image1-text1"])(embeds, scale, ids)
    off = MultiViewContrastive(["image1-text1"], multi_positive=False)(embeds, scale, ids)
    assert float(on["image1-text1/accuracy"]) > float(off["image1-text1/accuracy"])


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("source", ["text", "caption", "tags"])
def test_two_pictures_with_one_text_are_not_one_picture(source, chunk):
    """Image towers that give each picture its own embedding are right: their loss is 0."""
    embeds = {view: paddle.eye(4) for view in ("image1", "image2")}
    ids = {"image": paddle.arange(4), source: paddle.to_tensor([5, 5, 6, 7])}
    losses = MultiViewContrastive(["image1-image2"], chunk=chunk)(embeds, 100.0, ids)
    assert float(losses["loss"]) < 1e-6
    assert float(losses["image1-image2/accuracy"]) == 1
    # and one that gives both the same has not learnt anything wrong either
    embeds["image1"] = embeds["image2"] = paddle.eye(4).gather(paddle.to_tensor([0, 0, 2, 3]))
    losses = MultiViewContrastive(["image1-image2"], chunk=chunk)(embeds, 100.0, ids)
    assert float(losses["loss"]) < 1e-6


def test_a_source_without_ids_holds_no_equal_records():
    _, tensors = embeds_of(("image1", "image2", "text1", "text2"))
    loss, numbers = MultiViewContrastive(), paddle.to_tensor([1, 1, 2, 2, 3, 4, 5])
    without = float(loss(tensors, 9.0)["loss"])
    assert float(loss(tensors, 9.0, {})["loss"]) == without
    assert float(loss(tensors, 9.0, {"tags": paddle.arange(7)})["loss"]) == without
    images, texts = (loss(tensors, 9.0, {s: numbers}) for s in ("image", "text"))
    for name, changed in (("image1-image2", images), ("text1-text2", texts)):
        assert float(changed[name]) != float(loss(tensors, 9.0)[name])
    off = MultiViewContrastive(multi_positive=False)
    assert float(off(tensors, 9.0, {"image": numbers, "text": numbers})["loss"]) == without


@pytest.mark.parametrize(
    "ids,said",
    [
        (paddle.zeros([7, 2], "int64"), "ids is a Tensor: expected a mapping"),
        ({"texts": paddle.zeros([7], "int64")}, 'did you mean "text"'),
        ({"image": paddle.zeros([6], "int64")}, r"shape \[6\]: expected \[7\]"),
        ({"image": paddle.zeros([7, 1], "int64")}, r"shape \[7, 1\]: expected \[7\]"),
    ],
)
@pytest.mark.parametrize("multi_positive", [True, False])
def test_mistakes_in_ids(ids, said, multi_positive):
    _, tensors = embeds_of(("image1", "text1"))
    with pytest.raises(UserError, match=said):
        MultiViewContrastive(["image1-text1"], multi_positive)(tensors, 9.0, ids)


def test_collapsed_embeddings_are_never_right():
    embeds = {view: paddle.ones([8, 4]) / 2 for view in ("image1", "text1")}
    losses = MultiViewContrastive(["image1-text1"])(embeds, paddle.to_tensor([14.0]))
    assert float(losses["image1-text1/accuracy"]) == 0
    assert float(losses["loss"]) == pytest.approx(np.log(8), rel=1e-5)


def test_own_temperatures():
    arrays, tensors = embeds_of(("image1", "image2"))
    pairs = [("image1", "image2", 1.0, 1 / 0.1, None)]
    expected = reference.multi_view(arrays, pairs)["loss"]
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


def test_the_bias_of_a_sigmoid_pair():
    pair = {"views": ["image1", "text1"], "loss": "sigmoid"}
    loss = MultiViewContrastive([pair, ("image1", "image2", 1.0, 0.1, True)], max_logit_scale=8.0)
    assert float(loss.bias_image1_text1) == -10
    loss.bias_image1_text1.set_value(paddle.to_tensor([5.0]))
    loss.clamp_temperatures()
    assert float(loss.bias_image1_text1) == 5  # no temperature
    assert float(loss.temperature_image1_image2) == pytest.approx(np.log(8.0))
    _, tensors = embeds_of(("image1", "image2", "text1"))
    both = loss(tensors, paddle.to_tensor([9.0]))
    both["loss"].backward()
    assert float(loss.bias_image1_text1.grad) != 0
    assert set(both) == {
        "loss",
        "image1-text1",
        "image1-text1/accuracy",
        "image1-image2",
        "image1-image2/accuracy",
    }


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
        ([{"views": ["image1", "text1"], "bias": -10.0}], "which softmax cancels"),
        ([{"views": ["image1", "text1"], "loss": "sigmiod"}], 'did you mean "sigmoid"'),
        ([{"views": ["image1", "text1"], "loss": "sigmoid", "bias": np.nan}], "bias nan"),
    ],
)
def test_mistakes_in_pairs(pairs, said):
    with pytest.raises(UserError, match=said):
        MultiViewContrastive(pairs)


def test_no_chunk():
    with pytest.raises(UserError, match="chunk is 0"):
        MultiViewContrastive(chunk=0)


def test_missing_view():
    _, tensors = embeds_of(("image1", "text1"))
    with pytest.raises(UserError, match="image2"):
        MultiViewContrastive(["image1-image2"])(tensors, paddle.to_tensor([1.0]))
