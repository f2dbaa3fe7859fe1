"""Images: the official evaluation preprocessing and the training augmentation.

The only implementation; training, evaluation, export and serving import it. `decode.py` makes
pixels of a file's bytes, OpenCV does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np

from ernie_vil2.data import augment
from ernie_vil2.data.decode import TooManyPixels, check_pixels, decode_image
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError

__all__ = [
    "MEAN",
    "STD",
    "ImageError",
    "TooManyPixels",
    "TrainTransform",
    "decode_image",
    "eval_pixels",
    "eval_transform",
]

MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1 (official)
STD = (0.229, 0.224, 0.225)


# -- Geometry and normalisation --------------------------------------------------------------------


def _resize_short(image: np.ndarray, size: int) -> np.ndarray:
    """The shorter side to `size`, bilinear; the longer one int(size / short * long) + 1 (official).

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


def _normalisation_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What each value 0..255 becomes in each channel, float32 [3, 256]: (v / 255 - mean) / std.

    Rounded to float32 after each step, as the official code does, so that results are the same.
    """
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    centred = (values - np.asarray(mean, np.float64)[:, None]).astype(np.float32)
    return (centred / np.asarray(std, np.float64)[:, None]).astype(np.float32)


def _normalise(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [3, H, W]."""
    result = np.empty((3, *image.shape[:2]), np.float32)
    for plane, values, target in zip(cv2.split(image), table, result):
        cv2.LUT(plane, values, target)
    return result


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"an array {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3] in RGB"
        )


# -- Evaluation ------------------------------------------------------------------------------------


def eval_transform(
    size: int = 224, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Callable[[bytes | np.ndarray], np.ndarray]:
    """The official evaluation preprocessing: a function of an image's bytes, or of its RGB pixels
    uint8 [H, W, 3], that returns float32 [3, size, size].

    Shorter side to `size`, centre crop (an odd margin's extra pixel goes to the left and the top),
    RGB / 255, mean, standard deviation: preprocess_image.py of the official repository. The
    function can be pickled; it raises ImageError.
    """
    return partial(_evaluate, size=size, table=_normalisation_table(mean, std))


def eval_pixels(size: int = 224) -> Callable[[bytes | np.ndarray], np.ndarray]:
    """`eval_transform` without the normalisation: uint8 [size, size, 3], RGB."""
    return partial(_resize_and_crop, size=size)


def _evaluate(image: bytes | np.ndarray, size: int, table: np.ndarray) -> np.ndarray:
    return _normalise(_resize_and_crop(image, size), table)


def _resize_and_crop(image: bytes | np.ndarray, size: int) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        image = decode_image(image)
    _check_image(image)
    image = _resize_short(image, size)
    height, width = image.shape[:2]
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    return image[top : top + size, left : left + size]


# -- Training --------------------------------------------------------------------------------------


class TrainTransform:
    """`transform(image, rng)`: one random augmentation, uint8 [H, W, 3] RGB -> float32
    [3, size, size]. Two calls on one decoded image give the views image1 and image2.

    The official recipe: random crop (`crop_scale: null`) of the image resized to `size`, flip,
    colour jitter in random order, greyscale, Gaussian blur. The arguments are the keys of
    `Transform` in configs/base.yaml, which explains them. The colour operations are torchvision's
    ColorJitter on 8-bit images.
    """

    def __init__(
        self,
        size: int,
        flip_prob: float,
        jitter: Mapping,
        gray_prob: float,
        blur: Mapping,
        crop_scale: Sequence[float] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        _check_recipe(size, flip_prob, jitter, gray_prob, blur, crop_scale, mean, std)
        self.size = size
        self.flip_prob = flip_prob
        self.jitter = dict(jitter)
        self.gray_prob = gray_prob
        self.blur_kernel = (blur["kernel"], blur["kernel"])
        self.blur_sigma = tuple(blur["sigma"])
        self.blur_prob = blur["prob"]
        self.crop_scale = crop_scale
        self._table = _normalisation_table(mean, std)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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
        return _normalise(image, self._table)

    def _color_jitter(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


def _check_recipe(size, flip_prob, jitter, gray_prob, blur, crop_scale, mean, std) -> None:
    def expect(right: bool, key: str, value, expected: str) -> None:
        if not right:
            raise UserError(f"Transform.{key} is {value}: expected {expected}")

    expect(size >= 1, "size", size, "at least 1 pixel")
    probabilities = {
        "flip_prob": flip_prob,
        "jitter.prob": jitter["prob"],
        "gray_prob": gray_prob,
        "blur.prob": blur["prob"],
    }
    for key, value in probabilities.items():
        expect(0 <= value <= 1, key, value, "a probability, 0 to 1")
    for key in ("brightness", "contrast", "saturation"):
        expect(jitter[key] >= 0, f"jitter.{key}", jitter[key], "0 or more")
    expect(0 <= jitter["hue"] <= 0.5, "jitter.hue", jitter["hue"], "0 to 0.5 of the hue circle")
    kernel, sigma = blur["kernel"], blur["sigma"]
    expect(kernel >= 1 and kernel % 2 == 1, "blur.kernel", kernel, "an odd number of pixels")
    right = len(sigma) == 2 and 0 < sigma[0] <= sigma[1]
    expect(right, "blur.sigma", sigma, "[low, high] above 0, in pixels")
    right = crop_scale is None or (len(crop_scale) == 2 and 0 < crop_scale[0] <= crop_scale[1] <= 1)
    expect(right, "crop_scale", crop_scale, "null, or [low, high] in 0 to 1")
    expect(len(mean) == 3, "mean", mean, "three numbers")
    expect(len(std) == 3 and min(std) > 0, "std", std, "three numbers above 0")


def _factor(strength: float, rng: np.random.Generator) -> float:
    return rng.uniform(max(0.0, 1 - strength), 1 + strength)
