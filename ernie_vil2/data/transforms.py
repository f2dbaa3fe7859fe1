"""Images: the evaluation preprocessings. `train_transform.py` has the augmentation.

The only implementation; training, evaluation, export and serving import it. `decode.py` makes
pixels of a file's bytes; OpenCV does the rest of the official preprocessing, and Pillow, as where
they come from, of the others that `preprocessing.py` names. The last step, the normalisation, is
done here for one image, and for the batches of training and evaluation on the device
(`normalise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from PIL import Image

from ernie_vil2.data.arrays import Array, Floats, Pixels
from ernie_vil2.data.decode import TooManyPixels, check_pixels, decode_image
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.preprocessing import DEFAULT, PREPROCESSINGS

__all__ = [
    "MEAN",
    "STD",
    "ImageError",
    "TooManyPixels",
    "decode_image",
    "eval_pixels",
    "eval_planes",
    "eval_transform",
    "normalisation_table",
]

MEAN, STD = PREPROCESSINGS[DEFAULT][1:]  # of RGB in 0..1 (official)


# -- Geometry and normalisation --------------------------------------------------------------------


def size_by_short(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with the shorter side `size`, the longer int(size / short * long) + 1.

    The added 1 is the official code's, so a square becomes `size` high and size + 1 wide. An image
    whose shorter side is `size` stays as it is.
    """
    if min(height, width) == size:
        return height, width
    if width < height:
        height, width = int(size / width * height) + 1, size
    else:
        height, width = size, int(size / height * width) + 1
    check_pixels(width, height)  # a line of 1 x 60000 pixels would grow to gigabytes
    return height, width


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """The image resized, bilinear; one that has that size as it is."""
    if image.shape[:2] == (height, width):
        return image
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


def planes(image: Pixels) -> Pixels:
    """uint8 [H, W, 3], or [H, W] for three of a kind, -> [3, H, W], in memory of its own."""
    result = np.empty((3, *image.shape[:2]), np.uint8)
    if image.ndim == 2:
        result[...] = image
    else:
        cv2.split(image, list(result))
    return result


def check_image(image: Array) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"an array {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3] in RGB"
        )


# -- Evaluation ------------------------------------------------------------------------------------


def eval_transform(
    size: int = 224,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = DEFAULT,
) -> Callable[[bytes | Pixels], Floats]:
    """The evaluation preprocessing, by default the official one.

    official: preprocess_image.py of the official repository. Shorter side to `size`, bilinear by
    OpenCV, centre crop (an odd margin's extra pixel goes to the left and the top).
    clip: as OpenAI's and open_clip's. Shorter side to `size`, bicubic by Pillow, centre crop.
    paddlenlp, chinese_clip: as PaddleNLP's ernie-vil2.0 and Chinese-CLIP. Both sides to `size`,
    bicubic by Pillow.

    Then RGB / 255, mean, standard deviation.

    Args:
        size: pixels of a side.
        mean: of each channel, in 0..1; None: those that belong to `name`.
        std: standard deviation of each channel; None: as above.
        name: a key of `PREPROCESSINGS`.

    Returns:
        A function of an image's bytes, or of its pixels uint8 [H, W, 3] in RGB, that gives float32
        [3, size, size]. It can be pickled, and raises ImageError.

    Raises:
        UserError: no such name.
    """
    _check_name(name)
    named = PREPROCESSINGS[name]
    table = normalisation_table(
        named.mean if mean is None else mean, named.std if std is None else std
    )
    return partial(_evaluate, size=size, name=name, table=table)


def eval_pixels(size: int = 224, name: str = DEFAULT) -> Callable[[bytes | Pixels], Pixels]:
    """`eval_transform` without the normalisation: uint8 [size, size, 3], RGB."""
    _check_name(name)
    return partial(_resize_and_crop, size=size, name=name)


def eval_planes(size: int = 224, name: str = DEFAULT) -> Callable[[bytes | Pixels], Pixels]:
    """`eval_transform` before the normalisation: uint8 [3, size, size], for `Normalise`."""
    _check_name(name)
    return partial(_evaluate_planes, size=size, name=name)


def _check_name(name: str) -> None:
    if name not in _GEOMETRY:
        raise UserError(f'no preprocessing "{name}"{did_you_mean(name, _GEOMETRY)}')


def _evaluate_planes(image: bytes | Pixels, size: int, name: str) -> Pixels:
    return planes(_resize_and_crop(image, size, name))


def _evaluate(image: bytes | Pixels, size: int, name: str, table: Floats) -> Floats:
    return _normalise(_resize_and_crop(image, size, name), table)


def _resize_and_crop(image: bytes | Pixels, size: int, name: str) -> Pixels:
    if not isinstance(image, np.ndarray):
        image = decode_image(image)
    check_image(image)
    return _GEOMETRY[name](image, size)


# -- The geometry of each name: uint8 [H, W, 3] -> [size, size, 3] ---------------------------------


def _official(image: Pixels, size: int) -> Pixels:
    height, width = image.shape[:2]
    height, width = size_by_short(height, width, size)
    image = resize(image, height, width)
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    return image[top : top + size, left : left + size]


def _squashed(image: Pixels, size: int) -> Pixels:
    return _resize_bicubic(image, size, size)


def _clip(image: Pixels, size: int) -> Pixels:
    """torchvision's Resize and CenterCrop: half a pixel of a margin is rounded to the even one."""
    height, width = image.shape[:2]
    short = min(height, width)
    height, width = int(size * height / short), int(size * width / short)
    check_pixels(width, height)
    image = _resize_bicubic(image, height, width)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def _resize_bicubic(image: Pixels, height: int, width: int) -> Pixels:
    """By Pillow, whose filter grows with what it shrinks; OpenCV's looks at 4 x 4 pixels."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


_GEOMETRY: dict[str, Callable[[Pixels, int], Pixels]] = {
    "official": _official,
    "paddlenlp": _squashed,
    "chinese_clip": _squashed,
    "clip": _clip,
}
assert _GEOMETRY.keys() == PREPROCESSINGS.keys()
