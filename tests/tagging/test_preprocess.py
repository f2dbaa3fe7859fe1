"""Steps of a configuration against PaddleDetection's numbers, PaddleClas's code and plain NumPy."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.tagging import preprocess

THEIRS = json.loads(Path(__file__).with_name("preprocess.json").read_text())
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def picture(height: int, width: int) -> np.ndarray:
    """As when the numbers were written: blocks of noise."""
    blocks = np.random.default_rng(height).integers(
        0, 256, [height // 4 + 1, width // 4 + 1, 3], dtype=np.uint8
    )
    return cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)


def prepared(image, stated, table=preprocess.DETECTION):
    result = preprocess.Prepared.of(image)
    for step in preprocess.steps(stated, table):
        step(result)
    return result


@pytest.mark.parametrize("case", THEIRS["cases"])
def test_the_numbers_are_paddledetections(case):
    expected = THEIRS["cases"][case]
    height, width = map(int, case.split()[1].split("x"))
    stated = [(s["type"], {k: v for k, v in s.items() if k != "type"}) for s in expected["steps"]]
    got = prepared(picture(height, width), stated)
    assert list(got.image.shape) == expected["shape"]
    assert np.float32(got.shape).tolist() == expected["im_shape"]
    assert np.float32(got.scale).tolist() == expected["scale_factor"]
    at = np.random.default_rng(1).integers(0, got.image.size, 24)
    np.testing.assert_allclose(got.image.reshape(-1)[at], expected["values"], atol=1e-4)
    np.testing.assert_allclose(got.image.mean(dtype=np.float64), expected["mean"], atol=1e-4)


def test_by_hand():
    """PP-YOLOE's steps in float64, without a line of either project."""
    image = picture(90, 50)
    got = prepared(
        image,
        [
            ("Resize", {"target_size": [32, 48], "keep_ratio": False, "interp": 1}),
            ("NormalizeImage", {"mean": MEAN, "std": STD, "is_scale": True}),
            ("Permute", {}),
        ],
    )
    x = (np.arange(48) + 0.5) * 50 / 48 - 0.5
    y = (np.arange(32) + 0.5) * 90 / 32 - 0.5
    left, above = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = (x - left)[None, :, None], (y - above)[:, None, None]

    def at(rows, columns):
        return image[rows.clip(0, 89)][:, columns.clip(0, 49)].astype(float)

    top = (1 - a) * at(above, left) + a * at(above, left + 1)
    bottom = (1 - a) * at(above + 1, left) + a * at(above + 1, left + 1)
    pixels = ((1 - b) * top + b * bottom) / 255
    expected = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    # OpenCV's result is whole numbers: off by 1 of 255, over the smallest std
    assert np.abs(got.image - expected).max() < 1 / 255 / min(STD)
    assert got.scale == (32 / 90, 48 / 50) and got.shape == (32, 48)


@pytest.mark.parametrize(
    "stated",
    [
        [{"ResizeImage": {"size": [48, 32]}}],
        [{"ResizeImage": {"resize_short": 40}}, {"CropImage": {"size": 32}}],
        [{"ResizeImage": {"resize_short": 40, "interpolation": "bicubic", "backend": "pil"}}],
        [{"ResizeImage": {"size": 24, "interpolation": "area"}}],
    ],
)
@pytest.mark.parametrize("scale", ["1.0/255.0", 0.00392157])
def test_the_numbers_are_paddleclass(stated, scale):
    oracle = pytest.importorskip("paddleclas.deploy.python.preprocess")
    normalise = {"scale": scale, "mean": MEAN, "std": STD, "order": "", "channel_num": 3}
    stated = [*stated, {"NormalizeImage": normalise}, {"ToCHWImage": None}]
    image = picture(90, 50)
    expected = image
    for step in oracle.create_operators(stated):
        expected = step(expected)
    pairs = [(name, options or {}) for step in stated for name, options in step.items()]
    got = prepared(image, pairs, preprocess.CLASSIFICATION)
    np.testing.assert_allclose(got.image, expected, atol=1e-6)


def test_a_line_of_pixels_is_no_crash():
    for size in ([1, 500], [500, 1], [1, 1]):
        stated = [("Resize", {"target_size": [40, 66], "keep_ratio": True})]
        assert min(prepared(picture(*size), stated).image.shape[:2]) >= 1


@pytest.mark.parametrize(
    "stated,said",
    [
        (("Resise", {}), 'step Resise.*did you mean "Resize"'),
        (("Resize", {}), "step Resize.*target_size"),
        (("Resize", {"target_size": [1, 2, 3]}), "size of"),
        (("Resize", {"target_size": 8, "other": 1}), "step Resize.*other"),
        (("NormalizeImage", {"mean": MEAN, "std": STD, "norm_type": "max"}), "norm_type"),
        (("WarpAffine", {}), "step WarpAffine"),
    ],
)
def test_wrong_steps_are_told_before_a_picture(stated, said):
    with pytest.raises(UserError, match=said):
        preprocess.steps([stated], preprocess.DETECTION)


def test_a_scale_is_a_number_and_no_code():
    wrong = [("NormalizeImage", {"scale": "__import__('os').getpid()"})]
    with pytest.raises(UserError, match="expected a number"):
        preprocess.steps(wrong, preprocess.CLASSIFICATION)
