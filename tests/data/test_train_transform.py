"""The training augmentation's draws, and its views beside the step-by-step reference."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ernie_vil2.data import turbo
from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.draws import random_jitter
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.data.transforms import MEAN, STD, eval_planes
from ernie_vil2.errors import UserError
from tests.support.augmentation import augmented
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


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 2), (48, 49), (49, 48), (47, 48)])
@pytest.mark.parametrize("size", [1, 48])
def test_any_shape_gives_the_size(shape, size):
    image = np.full((*shape, 3), 100, np.uint8)
    for crop_scale in (None, (0.5, 1.0)):
        transform = TrainTransform(**{**RECIPE, "size": size, "crop_scale": crop_scale})
        for scaled in (False, True):
            transform.scaled_decode = scaled
            rng = np.random.default_rng(0)
            assert transform(image, rng).shape == (3, size, size)
            data = encoded(Image.fromarray(image), "JPEG")
            assert [v.shape for v in transform.views(data, 2, rng)] == [(3, size, size)] * 2


def test_can_be_pickled(photo):
    view = pickle.loads(pickle.dumps(TrainTransform(**RECIPE)))(photo, np.random.default_rng(3))
    np.testing.assert_array_equal(view, TrainTransform(**RECIPE)(photo, np.random.default_rng(3)))


# -- Beside the reference --------------------------------------------------------------------------


@pytest.mark.parametrize("crop_scale", [None, (0.2, 1.0)])
def test_geometry_greyscale_and_blur_equal_the_reference(photo, crop_scale):
    """Bit for bit: all that is drawn, two views of one generator, and all but the jitter."""
    settings = {**RECIPE, "crop_scale": crop_scale, "jitter": {**RECIPE["jitter"], "prob": 0.0}}
    transform, data = TrainTransform(**settings), encoded(Image.fromarray(photo), "JPEG")
    image = decode_image(data)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        expected = [augmented(image, settings, rng) for _ in range(2)]
        after = rng.random()
        for source in (data, image):
            rng = np.random.default_rng(seed)
            np.testing.assert_array_equal(transform.views(source, 2, rng), expected)
            assert rng.random() == after
        rng = np.random.default_rng(seed)
        np.testing.assert_array_equal([transform(image, rng) for _ in range(2)], expected)


@pytest.mark.parametrize("crop_scale", [None, (0.2, 1.0)])
def test_colours_stay_near_the_reference(photo, crop_scale):
    settings = {**RECIPE, "crop_scale": crop_scale}
    transform = TrainTransform(**settings)
    found, plain = [], []
    for seed in range(150):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        found += transform.views(photo, 2, rng)
        plain += [augmented(photo, settings, again) for _ in range(2)]
        assert rng.random() == again.random()
    difference = np.stack(found).astype(int) - np.stack(plain)
    assert (np.abs(difference) > 1).mean() < 0.03  # 8-bit hue: test_augment.py
    assert (np.abs(difference) > 2).mean() < 0.01 and np.abs(difference).max() <= 10
    assert abs(difference.mean()) < 0.3


def test_the_comparison_can_fail(photo):
    """Without its jitter the reference is another augmentation."""
    plain = augmented(photo, RECIPE, np.random.default_rng(1), colours=False)
    found = TrainTransform(**RECIPE)(photo, np.random.default_rng(1))
    assert np.abs(found.astype(int) - plain).mean() > 3


# -- Scaled decoding -------------------------------------------------------------------------------


def _smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 29), np.cos(y / 37 + x / 90), np.sin((x + 2 * y) / 51)]
    return (np.stack(waves, -1) * 120 + 128).astype(np.uint8)


@pytest.mark.parametrize("by_pillow", [False, True])
@pytest.mark.parametrize("crop_scale", [None, (0.3, 1.0)])
def test_scaled_decoding_gives_the_same_crops_from_fewer_pixels(monkeypatch, crop_scale, by_pillow):
    data = encoded(Image.fromarray(_smooth(411, 613)), "JPEG", quality=95)
    if by_pillow:
        monkeypatch.setattr(turbo, "_decoder", lambda: None)
    whole = recipe(crop_scale=crop_scale, flip_prob=0.5)
    scaled = recipe(crop_scale=crop_scale, flip_prob=0.5, scaled_decode=True)
    for seed in range(20):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        views = [t.views(data, 2, rng) for t, rng in zip((whole, scaled), rngs)]
        difference = np.abs(np.subtract(*views, dtype=int))
        assert 0 < difference.mean() < 1.5  # a shift by a pixel of the whole image gives 2.6
        assert rngs[0].random() == rngs[1].random()


def test_scaled_decoding_never_enlarges():
    """A part as small as the view needs all of its pixels."""
    data = encoded(Image.fromarray(_smooth(97, 140)), "JPEG")
    for crop_scale, size in ((None, 49), ((0.1, 0.1), 32)):
        settings = {"crop_scale": crop_scale, "size": size}
        views = [
            recipe(**settings, scaled_decode=scaled).views(data, 2, np.random.default_rng(0))
            for scaled in (False, True)
        ]
        np.testing.assert_array_equal(*views)


def test_a_broken_file_is_an_error(photo):
    data = encoded(Image.fromarray(photo), "JPEG")
    for transform in (recipe(), recipe(scaled_decode=True)):
        with pytest.raises(ImageError, match="truncated"):
            transform.views(data[: len(data) // 2], 2, np.random.default_rng(0))


# -- Draws -----------------------------------------------------------------------------------------


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


def test_jitter_takes_its_steps_in_every_order():
    rng = np.random.default_rng(0)
    orders = [tuple(name for name, _ in random_jitter(RECIPE["jitter"], rng)) for _ in range(300)]
    assert len(set(orders)) == 24


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
