"""JPEGs decoded by `simplejpeg`, if it is installed: in half of Pillow's time, to the same pixels.

Both are libjpeg-turbo; Pillow decodes line by line into memory of its own, which is copied once
more. What this decoder does not give without a single warning, Pillow is asked for: so it alone
decides what is refused, and why.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from ernie_vil2.data.arrays import Pixels

# Pixels * scans for each second that decoding may take: it cannot be stopped on the way, and
# decodes 50 million and more.
_PER_SECOND = 20_000_000

# Segments that say no more to Pillow than to us, and the shortest that it takes without a look at
# what they hold.
_SCAN, _FRAMES = 0xDA, (0xC0, 0xC1, 0xC2)
_NAMED = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
_LEAST = {0xE0: 16, 0xE2: 18, 0xEE: 14, 0xC0: 11, 0xC1: 11, 0xC2: 11, 0xDA: 6}
_LEAST.update({0xC4: 2, 0xDB: 2, 0xDD: 2, 0xFE: 2})  # tables, restarts, comments
_SEGMENTS = 100
_LARGE = 2**24  # pixels


@functools.cache
def _decoder() -> Callable[..., Any] | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg.decode_jpeg


def name() -> str:
    """Who decodes JPEGs, for a log."""
    return "Pillow" if _decoder() is None else "simplejpeg"


def plain_shape(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG as most are, in a tenth of the time that Pillow's header takes.

    None: ask Pillow. It is asked about every segment in which it could find more than the size (an
    orientation, another image) or a fault, about what is large, and where it is to decode anyway.
    """
    if _decoder() is None or data[:3] != b"\xff\xd8\xff":
        return None
    shape, place = None, 2
    with contextlib.suppress(IndexError):  # it ends in a header
        for _ in range(_SEGMENTS):
            start, marker = data[place], data[place + 1]
            length = data[place + 2] << 8 | data[place + 3]
            least = _LEAST.get(marker)
            if start != 0xFF or least is None or length < least:
                return None
            if marker == _SCAN:
                return shape
            content = place + 4
            if marker in _FRAMES:
                height = data[content + 1] << 8 | data[content + 2]
                width = data[content + 3] << 8 | data[content + 4]
                usual = data[content] == 8 and data[content + 5] in (1, 3)  # bits, components
                if shape or not usual or not 0 < height * width <= _LARGE:
                    return None
                shape = height, width
            elif marker in _NAMED and not data.startswith(_NAMED[marker], content):
                return None
            place += 2 + length
    return None


def decode(
    data: bytes, width: int, height: int, scans: int, seconds: float, shrink: int = 1
) -> Pixels | None:
    """The pixels of a JPEG as it is stored, uint8 [H, W, 3] RGB; None: ask Pillow.

    Args:
        data: a whole file, greyscale or of three components.
        width, height: as its header has them.
        scans: not less than it has.
        seconds: that decoding may take.
        shrink: 2, 4 or 8: decode at that part of its size, rounded up.
    """
    decoder = _decoder()
    if decoder is None or width * height * scans > _PER_SECOND * seconds:
        return None
    scaled: dict[str, int] = {}
    if shrink > 1:  # of the sizes up to 1 / shrink the one that is no smaller
        rows, columns = -(-height // shrink), -(-width // shrink)
        scaled = {"min_height": rows, "min_width": columns, "min_factor": shrink}
    try:
        pixels: Pixels = decoder(data, strict=True, **scaled)
    except Exception:  # damaged, truncated, or only odd
        return None
    return pixels
