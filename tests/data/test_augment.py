"""Colours beside Pillow's, by their formula, and beside the step-by-step reference."""

import colorsys
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ernie_vil2.data import augment
from tests.support.augmentation import jittered

PEERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.9, 1.0, 1.2, 1.4])
@pytest.mark.parametrize("name", PEERS)
def test_color_operations_equal_pillows(photo, noise, name, factor):
    for image in (photo, noise, noise[:30, 10:50]):
        expected = np.asarray(PEERS[name](Image.fromarray(image)).enhance(factor), int)
        found = augment.jitter(image, [(name, factor)])
        assert np.abs(found - expected).max() <= 1  # Pillow cuts, we round


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.04, 0.1, 0.5])
def test_hue_equals_the_formula(photo, shift):
    def turned(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)) * 255

    image = photo[::6, ::6]
    expected = np.apply_along_axis(turned, 2, image)
    difference = np.abs(augment.jitter(image, [("hue", shift)]) - expected)
    assert difference.max() < 12 and difference.mean() < 1.2  # hue has 8 bits, as in Pillow


def test_gathered_steps_equal_one_after_the_other(photo, noise):
    """In every order, with every factor of base.yaml and such as drive colours to both ends."""
    rng = np.random.default_rng(0)
    names = ("brightness", "contrast", "saturation")
    for order, strength in itertools.product(itertools.permutations(names), (0.4, 0.4, 1.0, 3.0)):
        low = max(0.0, 1 - strength)
        steps = [(name, rng.uniform(low, 1 + strength)) for name in order]
        for image in (photo, noise, (noise > 128) * np.uint8(255)):
            difference = np.abs(augment.jitter(image, steps).astype(int) - jittered(image, steps))
            # half a level more or less, which later steps enlarge, on either side
            assert difference.max() <= (2 if strength < 1 else 12), steps
            assert difference.mean() < (0.5 if strength < 1 else 1), steps


def test_hue_among_the_steps(photo):
    """A level more or less may turn the hue by the 256th part that it is counted in."""
    rng = np.random.default_rng(0)
    names = ("brightness", "contrast", "saturation", "hue")
    differences = []
    for order in itertools.permutations(names):
        values = [rng.uniform(-0.1, 0.1) if n == "hue" else rng.uniform(0.6, 1.4) for n in order]
        steps = list(zip(order, values))
        differences.append(augment.jitter(photo, steps).astype(int) - jittered(photo, steps))
    found = np.abs(differences)
    assert (found > 1).mean() < 0.08 and (found > 2).mean() < 0.02 and found.max() <= 10
    assert abs(np.mean(differences)) < 0.4  # OpenCV's way back from HSV cuts, Intel's rounds


@pytest.mark.parametrize(
    "steps",
    [
        [("contrast", 0.0), ("brightness", 10.0), ("contrast", 5.0), ("saturation", 1.0)],
        [("brightness", 0.0), ("contrast", 5.0), ("brightness", 5.0)],
        [("contrast", 0.1), ("brightness", 11.0), ("saturation", 2.0)],
    ],
)
@pytest.mark.parametrize("level", [0, 100, 255])
def test_extreme_factors(steps, level):
    image = np.full((8, 8, 3), level, np.uint8)
    image[0] = 30
    difference = np.abs(augment.jitter(image, steps).astype(int) - jittered(image, steps))
    assert difference.max() <= 6


def test_the_image_is_left_as_it_was(photo):
    before = photo.copy()
    for name in ("brightness", "contrast", "saturation", "hue"):
        augment.jitter(photo, [(name, 0.3)])
    np.testing.assert_array_equal(photo, before)
