"""The evaluation preprocessing against the official one, and the training augmentation's draws."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data import augment
from ernie_vil2.data.transforms import (
    MEAN,
    STD,
    ImageError,
    TrainTransform,
    eval_planes,
    eval_transform,
)
from ernie_vil2.errors import UserError
from tests.support.pictures import encoded

RECIPE = {
    "size": 48,
    "flip_prob": 0.5,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "prob": 0.8},
    "gray_prob": 0.2,
    "blur": {"kernel": 5, "sigma": [0.1, 2.0], "prob": 0.5},
    "crop_scale": None,
    "mean": MEAN,
    "std": STD,
}


def recipe(**changes):
    """The recipe with everything random off but `changes`; `jitter_hue=...` changes jitter.hue."""
    result = {
        **RECIPE,
        "flip_prob": 0.0,
        "jitter": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "prob": 0.0},
        "gray_prob": 0.0,
        "blur": {"kernel": 5, "sigma": [1.0, 1.0], "prob": 0.0},
    }
    for key, value in changes.items():
        section, _, inner = key.partition("_")
        if section in ("jitter", "blur"):
            result[section][inner] = value
        else:
            result[key] = value
    return TrainTransform(**result)


def pixels(view):
    """uint8 [3, H, W] -> float64 [H, W, 3], whose differences may be negative."""
    return view.transpose(1, 2, 0).astype(np.float64)


# -- Evaluation ------------------------------------------------------------------------------------


def test_eval_transform_equals_the_official_preprocessing(fixtures_dir):
    folder = fixtures_dir / "official_preprocess"
    expected = np.load(folder / "preprocessed.npz")
    transform = eval_transform(224)
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".jpg", ".png")]
    assert len(files) == len(expected.files)
    for file in files:
        view = transform(file.read_bytes())
        assert view.dtype == np.float32 and view.flags.c_contiguous
        np.testing.assert_array_equal(view, expected[file.name.replace(".", "_")])


def test_eval_transform_by_its_formula(noise):
    image = noise[:48]  # the shorter side is the size already: cropped, not resized
    view = eval_transform(48, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(image)
    expected = (image[:, 16:64] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(view.transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 2), (48, 49), (49, 48), (47, 48)])
@pytest.mark.parametrize("size", [1, 48])
def test_any_shape_gives_the_size(shape, size):
    image = np.full((*shape, 3), 100, np.uint8)
    for view in (
        eval_transform(size)(image),
        eval_planes(size)(image),
        TrainTransform(**{**RECIPE, "size": size})(image, np.random.default_rng(0)),
        TrainTransform(**{**RECIPE, "size": size, "crop_scale": (0.5, 1.0)})(
            image, np.random.default_rng(0)
        ),
    ):
        assert view.shape == (3, size, size)


def test_bytes_and_pixels_give_the_same(photo):
    transform = eval_transform(32)
    np.testing.assert_array_equal(transform(encoded(Image.fromarray(photo))), transform(photo))


def test_transforms_can_be_pickled(photo):
    transform = pickle.loads(pickle.dumps(eval_transform(32)))
    np.testing.assert_array_equal(transform(photo), eval_transform(32)(photo))
    view = pickle.loads(pickle.dumps(TrainTransform(**RECIPE)))(photo, np.random.default_rng(3))
    np.testing.assert_array_equal(view, TrainTransform(**RECIPE)(photo, np.random.default_rng(3)))


def test_unusable_arrays_are_an_error(photo):
    for image in (photo[..., 0], photo / 255.0, photo[:0], np.dstack([photo, photo])):
        with pytest.raises(ImageError, match="expected uint8"):
            eval_transform(32)(image)
    with pytest.raises(ImageError, match="pixels"):  # as large as a bomb once resized
        eval_transform(224)(np.zeros((1, 60_000, 3), np.uint8))


# -- Training --------------------------------------------------------------------------------------


def test_views_are_determined_by_the_generator(photo):
    for crop_scale in (None, (0.5, 1.0)):
        transform = TrainTransform(**{**RECIPE, "crop_scale": crop_scale})
        before = photo.copy()
        one, other, again = (transform(photo, np.random.default_rng(seed)) for seed in (1, 2, 1))
        np.testing.assert_array_equal(one, again)
        assert np.abs(pixels(one) - pixels(other)).mean() > 3
        assert one.dtype == np.uint8 and one.flags.c_contiguous and one.shape == (3, 48, 48)
        np.testing.assert_array_equal(photo, before)


def test_nothing_random_left_equals_evaluation(photo):
    square = photo[:48, :48]
    view = recipe()(square, np.random.default_rng(0))
    np.testing.assert_array_equal(view, eval_planes(48)(square))


def test_random_crop_takes_every_place_equally():
    image = np.zeros((48, 52, 3), np.uint8)
    image[..., 0] = np.arange(52)
    transform, rng = recipe(), np.random.default_rng(0)
    lefts = [round(pixels(transform(image, rng))[0, 0, 0]) for _ in range(1000)]
    counts = np.bincount(lefts, minlength=5)
    assert len(counts) == 5 and (np.abs(counts - 200) < 60).all()  # 4.7 standard deviations


def test_random_resized_crop_keeps_to_its_shares():
    y, x = np.mgrid[0:200, 0:250]
    image = np.stack([x, y, x * 0], -1).astype(np.uint8)  # a pixel's colour says where it was
    transform, rng = recipe(crop_scale=[0.2, 0.6], size=100), np.random.default_rng(0)
    shares, aspects = [], []
    for _ in range(200):
        view = pixels(transform(image, rng))
        width, height = np.ptp(view[..., 0]) + 1, np.ptp(view[..., 1]) + 1
        shares.append(width * height / (200 * 250))
        aspects.append(width / height)
    assert 0.19 < min(shares) < 0.23 and 0.56 < max(shares) < 0.62
    assert 0.73 < min(aspects) < 0.78 and 1.28 < max(aspects) < 1.37


def test_probabilities(photo):
    square = photo[:48, :48]
    plain = eval_planes(48)(square)
    rng = np.random.default_rng(0)
    changes = {
        "flip_prob": lambda view: np.array_equal(view, plain[..., ::-1]),
        "gray_prob": lambda view: np.ptp(view, axis=0).max() == 0,
        "blur_prob": lambda view: not np.array_equal(view, plain),
    }
    for key, changed in changes.items():
        transform = recipe(**{key: 0.3})
        hits = sum(changed(transform(square, rng)) for _ in range(1000))
        assert 240 < hits < 360, key  # 4.1 standard deviations
    transform = recipe(jitter_prob=0.3, jitter_brightness=0.4)
    hits = sum(not np.array_equal(transform(square, rng), plain) for _ in range(1000))
    assert 230 < hits < 360


def test_jitter_draws_its_factors_from_the_whole_range():
    gray = np.full((48, 48, 3), 100, np.uint8)
    transform, rng = recipe(jitter_prob=1.0, jitter_brightness=0.4), np.random.default_rng(0)
    levels = [pixels(transform(gray, rng)).mean() for _ in range(300)]
    assert 59.4 < min(levels) < 63 and 137 < max(levels) < 140.6
    assert abs(np.mean(levels) - 100) < 5


def test_jitter_takes_its_steps_in_every_order(photo, monkeypatch):
    order = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        adjust = getattr(augment, f"adjust_{name}")

        def spied(image, value, name=name, adjust=adjust):
            order.append(name)
            return adjust(image, value)

        monkeypatch.setattr(augment, f"adjust_{name}", spied)
    transform, rng = TrainTransform(**RECIPE), np.random.default_rng(0)
    for _ in range(300):
        transform(photo, rng)
    orders = list(zip(*[iter(order)] * 4))
    assert 200 < len(orders) < 275 and len(set(orders)) == 24


def test_greyscale_and_blur_by_their_formulas(noise):
    rng = np.random.default_rng(0)
    image = noise[:48, :48]
    luma = image @ np.array([0.299, 0.587, 0.114])
    gray = pixels(recipe(gray_prob=1.0)(image, rng))
    assert np.abs(gray - luma[..., None]).max() < 0.6
    bell = np.exp(-np.square([-2, -1, 0, 1, 2]) / (2 * 1.3**2))
    bell /= bell.sum()
    expected = np.zeros((44, 44, 3))
    for dy in range(5):
        for dx in range(5):
            expected += bell[dy] * bell[dx] * image[dy : dy + 44, dx : dx + 44]
    blurred = pixels(recipe(blur_prob=1.0, blur_sigma=[1.3, 1.3])(image, rng))[2:-2, 2:-2]
    assert np.abs(blurred - expected).max() < 1.5


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"flip_prob": 1.5},
        {"gray_prob": -0.1},
        {"jitter_prob": 2.0},
        {"jitter_contrast": -1.0},
        {"jitter_brightness": 10.5},
        {"jitter_saturation": float("inf")},
        {"jitter_hue": 0.6},
        {"blur_kernel": 4},
        {"blur_kernel": 257},
        {"blur_sigma": [2.0, 1.0]},
        {"blur_sigma": [0.0, 1.0]},
        {"crop_scale": [0.5, 1.1]},
        {"crop_scale": [0.5]},
        {"mean": [0.5]},
        {"mean": [0.5, 0.5, 1.5]},
        {"std": [0.5, 0.5, 0.0]},
    ],
)
def test_wrong_settings_are_the_users_error(change):
    key = next(iter(change)).replace("jitter_", "jitter.").replace("blur_", "blur.")
    with pytest.raises(UserError, match=rf"Transform\.{key} is .*expected"):
        recipe(**change)
