"""JPEGs decoded by `simplejpeg`, if it is installed: in half of Pillow's time, to the same pixels.

Both are libjpeg-turbo; Pillow decodes line by line into memory of its own, which is copied once
more. What this decoder does not give without a single warning, Pillow is asked for: so it alone
decides what is refused, and why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ernie_vil2.data.arrays import Pixels

# Pixels * scans for each second that decoding may take: it cannot be stopped on the way, and
# decodes 50 million and more.
_PER_SECOND = 20_000_000


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
        pixels: Pixels = decoder(data, **scaled)
    except Exception:  # damaged, truncated, or only odd
        return None
    return pixels
