"""Files of a collection's pictures, by id: never any other file, and none that changed since.

A path is what the indexer has seen; whatever stands there now is given out only if its SHA-256 is
the one that was indexed. So a link or another file in a picture's place is never read to anyone.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict

import cv2

from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.search.collection import Picture
from ernie_vil2.serving.items import ItemLimits
from ernie_vil2.serving.web.errors import ApiError

SIDE = 320  # pixels of a thumbnail's longer side
_QUALITY = 80  # of its JPEG
_BEGINNINGS = (  # of the formats that `decode_image` takes; nothing else is a picture to us
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    *((b"P%d" % kind, "image/x-portable-anymap") for kind in range(1, 7)),
)
TYPES = tuple(sorted({kind for _, kind in _BEGINNINGS} | {"image/webp"}))


class Thumbnails:
    """Small JPEGs of pictures, the last ones kept in memory.

    Args:
        limits: of what is decoded.
        kept_bytes: of all that are kept.
    """

    def __init__(self, limits: ItemLimits, kept_bytes: int = 64 << 20):
        self._limits, self._kept_bytes = limits, kept_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()  # by SHA-256 of the picture
        self._held = 0
        self._mutex = threading.Lock()

    def of(self, picture: Picture) -> bytes:
        """A JPEG of at most SIDE x SIDE pixels, without the file's metadata.

        Raises:
            ApiError: 404: the file was removed, or changed since it was indexed, or is damaged.
        """
        with self._mutex:
            found = self._kept.get(picture.sha256)
            if found is not None:
                self._kept.move_to_end(picture.sha256)
        if found is not None and unchanged(picture):
            return found
        data = read_original(picture)
        made = found or self._make(data)
        self._keep(picture.sha256, made)
        return made

    def _make(self, data: bytes) -> bytes:
        limits = self._limits
        try:
            pixels = decode_image(data, SIDE, limits.pixels, limits.decode_seconds)
        except ImageError as error:
            raise ApiError(404, "bad_image", str(error)) from None
        height, width = pixels.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
        return jpeg.tobytes()

    def _keep(self, name: str, jpeg: bytes) -> None:
        with self._mutex:
            if name not in self._kept:
                self._kept[name] = jpeg
                self._held += len(jpeg)
            while self._held > self._kept_bytes:
                self._held -= len(self._kept.popitem(last=False)[1])


def unchanged(picture: Picture) -> bool:
    """Whether the file's size and time are those that were indexed."""
    try:
        state = os.stat(picture.path)
    except (OSError, ValueError):
        return False
    return (state.st_size, state.st_mtime_ns) == (picture.size, picture.mtime_ns)


def read_original(picture: Picture) -> bytes:
    """The bytes that were indexed.

    Raises:
        ApiError: 404: they are there no more.
    """
    try:
        # a pipe in the picture's place must not hold us up
        descriptor = os.open(picture.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_size != picture.size:
                raise _changed()
            data = file.read(picture.size + 1)
    except FileNotFoundError:
        raise ApiError(404, "removed", "the file was removed since it was indexed") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such path"
        raise ApiError(404, "unreadable", f"the file cannot be read: {reason}") from None
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise _changed()
    return data


def type_of(data: bytes) -> str:
    """The content type by a file's beginning, whatever it is called.

    Raises:
        ApiError: 404: no picture of a kind that we decode, such as SVG, which may hold programs.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    raise ApiError(404, "bad_image", "the file is no picture of a kind that is shown")


def _changed() -> ApiError:
    return ApiError(404, "changed", "the file changed since it was indexed: index it again")
