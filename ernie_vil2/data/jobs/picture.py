"""What a job asks of an encoded picture, and how it writes one anew."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ernie_vil2.data.arrays import Pixels
from ernie_vil2.data.decode import FORMATS, check_pixels, decode_image
from ernie_vil2.data.image_file import ImageError, ImageFile, check_header

# Pillow's name -> that of a file in a shard; other formats are written as PNG
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
_ORIENTATION = 0x0112  # of EXIF; 5 to 8 turn width into height


@dataclass(frozen=True)
class Header:
    """What a picture's file says of itself.

    Attributes:
        format: Pillow's name.
        width, height: upright.
    """

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Of a whole file; its pixels are not decoded.

    Raises:
        ImageError: no picture in one of FORMATS, as far as that shows.
    """
    if not data:
        raise ImageError("an empty file (0 bytes): expected an image")
    check_header(data)
    try:
        with Image.open(ImageFile(data), formats=FORMATS) as image:
            check_pixels(*image.size)
            turned = False
            with suppress(Exception):  # damaged EXIF: the pixels are good all the same
                turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
            kind = "JPEG" if image.format == "MPO" else str(image.format)
    except ImageError:
        raise
    except UnidentifiedImageError:  # whose text tells an address, which differs from run to run
        raise ImageError(f"no image in one of {', '.join(FORMATS)}") from None
    except Exception as error:  # what a damaged header makes Pillow raise is not documented
        raise ImageError(f"no readable image: {' '.join(str(error).split())}") from None
    return Header(kind, width, height)


def prepared(data: bytes, side: int | None, quality: int) -> tuple[bytes, str]:
    """A picture's file as a shard holds it, and its extension.

    The file itself, unless its format is not one of EXTENSIONS, which makes it a PNG, or a side is
    longer than `side`: then it becomes a JPEG of that quality, upright, scaled by areas.

    Raises:
        ImageError: it cannot be decoded, where it had to be.
    """
    header = read_header(data)
    longest = max(header.width, header.height)
    if side is None or longest <= side:
        if header.format in EXTENSIONS:
            return data, EXTENSIONS[header.format]
        return _encoded(decode_image(data), "png"), "png"
    size = [max(1, round(x * side / longest)) for x in (header.width, header.height)]
    pixels = decode_image(data, min_size=min(size))
    small = cv2.resize(pixels, (size[0], size[1]), interpolation=cv2.INTER_AREA)
    return _encoded(np.asarray(small, np.uint8), "jpg", cv2.IMWRITE_JPEG_QUALITY, quality), "jpg"


def _encoded(pixels: Pixels, extension: str, *options: int) -> bytes:
    _, data = cv2.imencode(f".{extension}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()
