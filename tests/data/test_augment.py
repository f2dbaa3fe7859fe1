"""Colour operations beside Pillow's, and by their formula."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ernie_vil2.data import augment


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.9, 1.0, 1.2, 1.4])
def test_color_operations_equal_pillows(photo, noise, factor):
    peers = {
        augment.adjust_brightness: ImageEnhance.Brightness,
        augment.adjust_contrast: ImageEnhance.Contrast,
        augment.adjust_saturation: ImageEnhance.Color,
    }
    for image in (photo, noise, noise[:30, 10:50]):
        for adjust, peer in peers.items():
            expected = np.asarray(peer(Image.fromarray(image)).enhance(factor), int)
            assert np.abs(adjust(image, factor) - expected).max() <= 1  # Pillow cuts, we round


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.04, 0.1, 0.5])
def test_hue_equals_the_formula(photo, shift):
    def turned(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)) * 255

    image = photo[::6, ::6]
    expected = np.apply_along_axis(turned, 2, image)
    difference = np.abs(augment.adjust_hue(image, shift) - expected)
    assert difference.max() < 12 and difference.mean() < 1.2  # hue has 8 bits, as in Pillow
