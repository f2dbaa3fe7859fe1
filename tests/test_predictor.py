"""The Predictor gives the training model's embeddings, whatever it is given."""

import cv2
import numpy as np
import paddle
import pytest
from shapes import COLORS, SHAPES, draw

from ernie_vil2.data.transforms import ImageError, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.serving.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tiny_artefact):
    return Predictor(tiny_artefact, batch_size=3)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [draw(color, shape, rng) for color in COLORS for shape in SHAPES[:2]]


def test_images_of_any_kind(predictor, tiny_model, images, tmp_path):
    pixels = paddle.to_tensor(np.stack([eval_transform(16)(image) for image in images]))
    expected = tiny_model.encode_image(pixels).numpy()
    assert np.abs(expected[0] - expected[1:]).max(axis=1).min() > 0.01  # they can be told apart
    (tmp_path / "a.png").write_bytes(images[0])
    array = cv2.cvtColor(cv2.imdecode(np.frombuffer(images[1], np.uint8), 1), cv2.COLOR_BGR2RGB)
    mixed = [tmp_path / "a.png", array, *images[2:]]
    np.testing.assert_allclose(predictor.encode_image(mixed), expected, atol=1e-6)


def test_texts_of_any_length(predictor, tiny_model):
    texts = ["a red circle", "", "red", "the blue line " * 9, "square", "white cross a"]
    ids = predictor.tokenizer(texts)
    expected = tiny_model.encode_text(paddle.to_tensor(ids)).numpy()
    np.testing.assert_allclose(predictor.encode_text(texts), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.embed_ids(ids), expected, atol=1e-6)


def test_nothing_in_nothing_out(predictor):
    assert predictor.encode_image([]).shape == predictor.encode_text([]).shape == (0, 12)


def test_a_bad_image_is_named(predictor, images, tmp_path):
    with pytest.raises(ImageError, match="image 1: not an image"):
        predictor.encode_image([images[0], b"text"])
    with pytest.raises(ImageError, match=r"image 0: .*none.png cannot be read: No such file"):
        predictor.encode_image([tmp_path / "none.png"])


@pytest.mark.parametrize(
    "options,message",
    [
        ({"precision": "int8"}, "has no precision int8: expected one of fp32"),
        ({"device": "tpu"}, 'device "tpu": expected cpu, gpu or gpu:<number>'),
        ({"device": "gpu:99"}, "device gpu:99: this Paddle sees"),
    ],
)
def test_what_cannot_run_is_refused(tiny_artefact, options, message):
    with pytest.raises(UserError, match=message):
        Predictor(tiny_artefact, **options)
