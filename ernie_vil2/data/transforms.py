"""Images: bytes to RGB pixels, the official evaluation preprocessing, the training augmentation.

The only implementation; training, evaluation, export and serving import it. Pillow decodes, since
it refuses truncated files, which OpenCV fills with grey; on JPEGs both give the same pixels. OpenCV
does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ernie_vil2.data.image_file import (
    BLOCK,
    DECODE_SECONDS,
    ImageError,
    ImageFile,
    check_header,
    check_scans,
)
from ernie_vil2.errors import UserError

MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1 (official)
STD = (0.229, 0.224, 0.225)
MAX_PIXELS = 2**28 // 3  # 89 million, 256 MiB as RGB: more is taken for a decompression bomb
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as OpenCV's and Pillow's greyscale


class TooManyPixels(ImageError):
    """An image larger than is read."""


# -- Decoding --------------------------------------------------------------------------------------


def decode_image(
    data: bytes,
    min_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    seconds: float = DECODE_SECONDS,
) -> np.ndarray:
    """The image upright, as uint8 [H, W, 3] RGB; of an animation the first frame.

    EXIF orientation is applied, transparency laid on white, 16 bits a sample cut to the upper 8.

    Args:
        data: a whole file in one of FORMATS.
        min_size: let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, which is faster, as long as
            the shorter side stays at least this many pixels.
        max_pixels: read from the header, before anything is decoded; at most MAX_PIXELS.
        seconds: of this thread's time, looked at every few kilobytes.

    Raises ImageError: empty, truncated, damaged, no image, made to take long (image_file.py);
        TooManyPixels.
    """
    if len(data) == 0:
        raise ImageError("an empty file (0 bytes): expected an image")
    check_header(data)
    try:
        image = Image.open(ImageFile(data, seconds), formats=FORMATS)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"not an image: {len(data)} bytes that begin with {bytes(data[:8])!r}, "
            f"expected one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, twice ours
        raise TooManyPixels(str(error)) from None
    except Exception as error:  # what a damaged header makes Pillow raise is not documented
        raise _damaged("header", error) from None
    _check_pixels(*image.size, min(max_pixels, MAX_PIXELS))
    if image.format in ("JPEG", "MPO"):
        check_scans(data, *image.size)
        image.decodermaxblock = BLOCK  # 64 KiB hold hundreds of scans
    try:
        if min_size is not None:
            image.draft(None, (min_size, min_size))
        image.load()
        with suppress(Exception):  # damaged EXIF: the pixels are good all the same
            ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # as above
        raise _damaged(image.format or "image", error) from None


def _damaged(what: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"damaged or truncated {what}: {reason}")


def _check_pixels(width: int, height: int, most: int = MAX_PIXELS) -> None:
    if width * height > most:
        raise TooManyPixels(
            f"{width} x {height} = {width * height} pixels, at most {most} are read: "
            "shrink the image"
        )


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ImageError("samples are 32-bit floats: expected 8 or 16 bits, convert the image")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them at 255
        gray = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """A picture of Pillow as `decode_image` gives a file's: upright, uint8 [H, W, 3] RGB.

    Raises ImageError.
    """
    _check_pixels(*image.size)
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # decoded only now; as above
        raise _damaged(image.format or "image", error) from None


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
    _check_pixels(width, height)  # a line of 1 x 60000 pixels would grow to gigabytes
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
            image = random_crop(_resize_short(image, self.size), self.size, rng)
        else:
            image = random_resized_crop(image, self.size, self.crop_scale, rng)
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
            (adjust_brightness, _factor(self.jitter["brightness"], rng)),
            (adjust_contrast, _factor(self.jitter["contrast"], rng)),
            (adjust_saturation, _factor(self.jitter["saturation"], rng)),
            (adjust_hue, rng.uniform(-self.jitter["hue"], self.jitter["hue"])),
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


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A view of `image`, [size, size, 3]."""
    height, width = image.shape[:2]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return image[top : top + size, left : left + size]


def random_resized_crop(
    image: np.ndarray, size: int, scale: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """A part with a share of the area drawn from `scale` and an aspect of 3/4 to 4/3 (uniform in
    the logarithm), resized to [size, size, 3]; after ten draws that don't fit, the largest centre
    part with a permitted aspect. Torchvision's RandomResizedCrop.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
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


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * image, on uint8 [H, W, 3] as the three below: rounded and kept in 0..255."""
    return cv2.addWeighted(image, factor, image, 0.0, 0.0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * image + (1 - factor) * the mean of its luma."""
    mean = float(_LUMA @ cv2.mean(image)[:3])
    return cv2.addWeighted(image, factor, image, 0.0, (1 - factor) * mean)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * image + (1 - factor) * its luma."""
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """The hue turned by `shift`, a share of the circle from -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 0..255, so uint8 wraps as it should
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
