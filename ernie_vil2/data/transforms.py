"""Images: the official evaluation preprocessing and the training augmentation.

The only implementation; training, evaluation, export and serving import it. `decode.py` makes
pixels of a file's bytes, OpenCV does the rest. The last step, the normalisation, is done here for
one image, and for the batches of training and evaluation on the device (`normalise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from ernie_vil2.data import augment
from ernie_vil2.data.arrays import Array, Floats, Pixels
from ernie_vil2.data.decode import TooManyPixels, check_pixels, decode_image
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.limits import TRANSFORM_LISTS, TRANSFORM_NUMBERS

__all__ = [
    "MEAN",
    "STD",
    "ImageError",
    "TooManyPixels",
    "TrainTransform",
    "decode_image",
    "eval_pixels",
    "eval_planes",
    "eval_transform",
    "normalisation_table",
]

MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1 (official)
STD = (0.229, 0.224, 0.225)


# -- Geometry and normalisation --------------------------------------------------------------------


def _resize_short(image: Pixels, size: int) -> Pixels:
    """The shorter side to `size`, bilinear; the longer to int(size / short * long) + 1 (official).

    The added 1 is the official code's, so a square becomes `size` high and size + 1 wide. An image
    whose shorter side is `size` stays as it is.
    """
    height, width = image.shape[:2]
    if min(height, width) == size:
        return image
    if width < height:
        width, height = size, int(size / width * height) + 1
    else:
        width, height = int(size / height * width) + 1, size
    check_pixels(width, height)  # a line of 1 x 60000 pixels would grow to gigabytes
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> Floats:
    """What each value 0..255 becomes in each channel, float32 [3, 256]: (v / 255 - mean) / std.

    Rounded to float32 after each step, as the official code does, so that results are the same.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    centred = (values - np.asarray(mean, np.float64)[:, None]).astype(np.float32)
    return (centred / np.asarray(std, np.float64)[:, None]).astype(np.float32)


def _normalise(image: Pixels, table: Floats) -> Floats:
    """uint8 [H, W, 3] -> float32 [3, H, W]."""
    result = np.empty((3, *image.shape[:2]), np.float32)
    for plane, values, target in zip(cv2.split(image), table, result):
        cv2.LUT(plane, values, target)
    return result


def _planes(image: Pixels) -> Pixels:
    """uint8 [H, W, 3] -> [3, H, W], in memory of its own."""
    result = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(result))
    return result


def _check_image(image: Array) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"an array {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3] in RGB"
        )


# -- Evaluation ------------------------------------------------------------------------------------


def eval_transform(
    size: int = 224, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Callable[[bytes | Pixels], Floats]:
    """The official evaluation preprocessing: preprocess_image.py of the official repository.

    Shorter side to `size`, centre crop (an odd margin's extra pixel goes to the left and the top),
    RGB / 255, mean, standard deviation.

    Args:
        size: pixels of a side.
        mean: of each channel, in 0..1.
        std: standard deviation of each channel.

    Returns:
        A function of an image's bytes, or of its pixels uint8 [H, W, 3] in RGB, that gives float32
        [3, size, size]. It can be pickled, and raises ImageError.
    """
    return partial(_evaluate, size=size, table=normalisation_table(mean, std))


def eval_pixels(size: int = 224) -> Callable[[bytes | Pixels], Pixels]:
    """`eval_transform` without the normalisation: uint8 [size, size, 3], RGB."""
    return partial(_resize_and_crop, size=size)


def eval_planes(size: int = 224) -> Callable[[bytes | Pixels], Pixels]:
    """`eval_transform` before the normalisation: uint8 [3, size, size], for `Normalise`."""
    return partial(_evaluate_planes, size=size)


def _evaluate_planes(image: bytes | Pixels, size: int) -> Pixels:
    return _planes(_resize_and_crop(image, size))


def _evaluate(image: bytes | Pixels, size: int, table: Floats) -> Floats:
    return _normalise(_resize_and_crop(image, size), table)


def _resize_and_crop(image: bytes | Pixels, size: int) -> Pixels:
    if not isinstance(image, np.ndarray):
        image = decode_image(image)
    _check_image(image)
    image = _resize_short(image, size)
    height, width = image.shape[:2]
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    return image[top : top + size, left : left + size]


# -- Training --------------------------------------------------------------------------------------


class TrainTransform:
    """`transform(image, rng)`: one random augmentation of an image.

    uint8 [H, W, 3] in RGB -> uint8 [3, size, size], which `Normalise` takes on the device. Two
    calls on one decoded image give the views image1 and image2.

    The official recipe: random crop (`crop_scale: null`) of the image resized to `size`, flip,
    colour jitter in random order, greyscale, Gaussian blur. The arguments are the keys of
    `Transform` in configs/base.yaml, which explains them. The colour operations are torchvision's
    ColorJitter on 8-bit images.

    Raises:
        UserError: an argument is out of its limits.
    """

    def __init__(
        self,
        size: int,
        flip_prob: float,
        jitter: Mapping[str, float],
        gray_prob: float,
        blur: Mapping[str, Any],
        crop_scale: Sequence[float] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        _check_recipe(
            size=size,
            flip_prob=flip_prob,
            jitter=jitter,
            gray_prob=gray_prob,
            blur=blur,
            crop_scale=crop_scale,
            mean=mean,
            std=std,
        )
        self.size = size
        self.flip_prob = flip_prob
        self.jitter = dict(jitter)
        self.gray_prob = gray_prob
        self.blur_kernel = (blur["kernel"], blur["kernel"])
        self.blur_sigma = tuple(blur["sigma"])
        self.blur_prob = blur["prob"]
        self.crop_scale = crop_scale
        self._mean = mean

    def blank(self) -> Pixels:
        """What stands for an image that there is not: the mean colour, about 0 once normalised."""
        colour = np.rint(np.asarray(self._mean) * 255).astype(np.uint8).reshape(3, 1, 1)
        return np.tile(colour, [1, self.size, self.size])

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        _check_image(image)
        if self.crop_scale is None:
            image = augment.random_crop(_resize_short(image, self.size), self.size, rng)
        else:
            image = augment.random_resized_crop(image, self.size, self.crop_scale, rng)
        if rng.random() < self.flip_prob:
            image = cv2.flip(image, 1)
        if rng.random() < self.jitter["prob"]:
            image = self._color_jitter(image, rng)
        if rng.random() < self.gray_prob:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if rng.random() < self.blur_prob:
            image = cv2.GaussianBlur(image, self.blur_kernel, rng.uniform(*self.blur_sigma))
        return _planes(image)

    def _color_jitter(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        steps = (
            (augment.adjust_brightness, _factor(self.jitter["brightness"], rng)),
            (augment.adjust_contrast, _factor(self.jitter["contrast"], rng)),
            (augment.adjust_saturation, _factor(self.jitter["saturation"], rng)),
            (augment.adjust_hue, rng.uniform(-self.jitter["hue"], self.jitter["hue"])),
        )
        for i in rng.permutation(len(steps)):
            adjust, value = steps[i]
            image = adjust(image, value)
        return image


_INTEGERS = {"size": "an integer", "blur.kernel": "an odd integer"}  # the rest are numbers


def _check_recipe(**recipe: Any) -> None:
    """Raise UserError for the first argument of TrainTransform that breaks a limit."""
    values = dict(recipe)
    for section in ("jitter", "blur"):
        values.update({f"{section}.{key}": value for key, value in recipe[section].items()})
    for key, limit in TRANSFORM_NUMBERS.items():
        value, items = values[key], TRANSFORM_LISTS.get(key)
        if key == "crop_scale" and value is None:
            continue
        expected = f"{_INTEGERS.get(key, 'a number')} {limit.words}"
        if items is None:
            right = limit.allows(value)
        else:
            right = items.holds(value) and all(map(limit.allows, value))
            expected = f"a list of {items.words}, each {expected}"
        if not right:
            raise UserError(f"Transform.{key} is {value}: expected {expected}")


def _factor(strength: float, rng: np.random.Generator) -> float:
    return rng.uniform(max(0.0, 1 - strength), 1 + strength)
