"""What the training augmentation does to an image: crops and colours, on uint8 [H, W, 3] RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ernie_vil2.data.arrays import Pixels

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as OpenCV's and Pillow's greyscale


def random_crop(image: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A part of `image`, [size, size, 3], each place as likely; it shares the image's memory."""
    height, width = image.shape[:2]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return image[top : top + size, left : left + size]


def random_resized_crop(
    image: Pixels, size: int, scale: Sequence[float], rng: np.random.Generator
) -> Pixels:
    """A part of random area and aspect, resized to [size, size, 3], as torchvision's.

    The share of the area is drawn from `scale`, the aspect from 3/4 to 4/3, uniformly in the
    logarithm. After ten draws that do not fit: the largest centre part with a permitted aspect.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            break
    else:
        w = min(width, max(1, round(height * 4 / 3)))
        h = min(height, max(1, round(width * 4 / 3)))
        top, left = (height - h) // 2, (width - w) // 2
    part = image[top : top + h, left : left + w]
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)


def adjust_brightness(image: Pixels, factor: float) -> Pixels:
    """factor * image, on uint8 [H, W, 3] as the three below: rounded and kept in 0..255."""
    return cv2.addWeighted(image, factor, image, 0.0, 0.0)


def adjust_contrast(image: Pixels, factor: float) -> Pixels:
    """factor * image + (1 - factor) * the mean of its luma."""
    mean = float(_LUMA @ cv2.mean(image)[:3])
    return cv2.addWeighted(image, factor, image, 0.0, (1 - factor) * mean)


def adjust_saturation(image: Pixels, factor: float) -> Pixels:
    """factor * image + (1 - factor) * its luma."""
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA)


def adjust_hue(image: Pixels, shift: float) -> Pixels:
    """The hue turned by `shift`, a share of the circle from -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 0..255, so uint8 wraps as it should
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
