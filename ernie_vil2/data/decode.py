"""Encoded images to RGB pixels.

The only implementation; training, evaluation, export and serving import it. Pillow decodes, since
it refuses truncated files, which OpenCV fills with grey; on JPEGs both give the same pixels.
Good JPEGs are decoded by `turbo.py`, to the same pixels once more.
"""

from __future__ import annotations

import functools
from contextlib import suppress

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile as PillowFile

from ernie_vil2.data import turbo
from ernie_vil2.data.arrays import Pixels
from ernie_vil2.data.image_file import (
    BLOCK,
    DECODE_SECONDS,
    ImageError,
    ImageFile,
    check_header,
    check_scans,
)

MAX_PIXELS = 2**28 // 3  # 89 million, 256 MiB as RGB: more is taken for a decompression bomb
_ORIENTATION = 0x0112  # the EXIF tag
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")


class TooManyPixels(ImageError):
    """An image larger than is read."""


def decode_image(
    data: bytes,
    min_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    seconds: float = DECODE_SECONDS,
) -> Pixels:
    """The image upright, as uint8 [H, W, 3] RGB; of an animation the first frame.

    EXIF orientation is applied, transparency laid on white, 16 bits a sample cut to the upper 8.

    Args:
        data: a whole file in one of FORMATS.
        min_size: let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, which is faster, as long as
            the shorter side stays at least this many pixels.
        max_pixels: read from the header, before anything is decoded; at most MAX_PIXELS.
        seconds: of this thread's time, looked at every few kilobytes.

    Raises:
        ImageError: empty, truncated, damaged, no image, made to take long (`image_file.py`).
        TooManyPixels: more than `max_pixels`.
    """
    image = EncodedImage(data, max_pixels, seconds)
    return image.decode(1 if min_size is None else image.shorter_side / max(1, min_size))


class EncodedImage:
    """A file whose header has been read and found good; arguments and errors of `decode_image`.

    Attributes:
        shrink: 8: a pixel of what `decode` gave stands for 8 x 8 of the image's.
    """

    def __init__(self, data: bytes, max_pixels: int = MAX_PIXELS, seconds: float = DECODE_SECONDS):
        if len(data) == 0:
            raise ImageError("an empty file (0 bytes): expected an image")
        self._data, self._seconds = data, seconds
        self._pixels: Pixels | None = None
        self.shrink = 1
        # of a JPEG that is stored upright, and in no other colours than we want
        self._plain = turbo.plain_shape(data)
        is_jpeg = self._plain is not None
        width, height = (self._plain or (0, 0))[::-1]
        if self._plain is None:
            is_jpeg = self._image.format in ("JPEG", "MPO")
            width, height = self._image.size
            if _is_plain(self._image):
                self._plain = height, width
        check_pixels(width, height, min(max_pixels, MAX_PIXELS))
        self._size, self._is_jpeg = (width, height), is_jpeg
        self._scans = check_scans(data, width, height) if is_jpeg else 0

    @functools.cached_property
    def _image(self) -> PillowFile:
        """Pillow's, which a plain JPEG does without as a rule."""
        image = _open(self._data, self._seconds)
        if image.format in ("JPEG", "MPO"):
            image.decodermaxblock = BLOCK  # 64 KiB hold hundreds of scans
        return image

    @property
    def shorter_side(self) -> int:
        return min(self._size)

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width of the upright image, before it is decoded where its header has them."""
        height, width = self._plain or self.decode().shape[:2]
        return height, width

    def decode(self, most_shrink: float = 1) -> Pixels:
        """What `decode_image` gives; called again, the same.

        Args:
            most_shrink: decode a JPEG at 1/2, 1/4 or 1/8 of its size, rounded up, where that is not
                less than 1 / `most_shrink` of it.
        """
        if self._pixels is None:
            if self._is_jpeg:
                self.shrink = next((s for s in (8, 4, 2) if s <= most_shrink), 1)
            if self._plain:
                self._pixels = turbo.decode(
                    self._data, *self._size, self._scans, self._seconds, self.shrink
                )
            if self._pixels is None:
                self._pixels = _by_pillow(self._image, self.shrink)
        return self._pixels


def _is_plain(image: PillowFile) -> bool:
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return False
    with suppress(Exception):  # damaged EXIF: it is ignored
        return bool(image.getexif().get(_ORIENTATION, 1) == 1)
    return True


def _by_pillow(image: PillowFile, shrink: int) -> Pixels:
    try:
        if shrink > 1:
            image.draft(None, (image.width // shrink, image.height // shrink))
        image.load()
        with suppress(Exception):  # damaged EXIF: the pixels are good all the same
            ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # what a damaged file makes Pillow raise is not documented
        raise _damaged(image.format or "image", error) from None


def _open(data: bytes, seconds: float) -> PillowFile:
    check_header(data)
    try:
        return Image.open(ImageFile(data, seconds), formats=FORMATS)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"not an image: {len(data)} bytes that begin with {bytes(data[:8])!r}, "
            f"expected one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, twice ours
        raise TooManyPixels(str(error)) from None
    except Exception as error:  # as above
        raise _damaged("header", error) from None


def _damaged(what: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"damaged or truncated {what}: {reason}")


def check_pixels(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raise TooManyPixels unless an image of this size may be held in memory."""
    if width * height > most:
        raise TooManyPixels(
            f"{width} x {height} = {width * height} pixels, at most {most} are read: "
            "shrink the image"
        )


def _to_rgb(image: Image.Image) -> Pixels:
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


def rgb_pixels(image: Image.Image) -> Pixels:
    """A picture of Pillow as `decode_image` gives a file's: upright, uint8 [H, W, 3] RGB.

    Raises:
        ImageError: too many pixels, or none that can be had.
    """
    check_pixels(*image.size)
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # decoded only now; as above
        raise _damaged(image.format or "image", error) from None
