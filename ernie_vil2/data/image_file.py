"""An encoded image as the file that Pillow reads, with bounds on what its decoding may cost.

Some files of a few kilobytes keep a decoder busy for minutes; each bound is far above what a good
image needs, and all but the last depend on the file alone.
"""

from __future__ import annotations

import io
import re
import time
from typing import Literal

import numpy as np

from ernie_vil2.errors import UserError

MAX_SCANS = 100  # of a JPEG; Pillow writes 10, each passes over all pixels
MAX_SCANNED = 10**9  # scans * pixels
MAX_PLAIN = 2 << 20  # bytes of a plain-text PPM, whose numbers are parsed one by one
DECODE_SECONDS = 30.0
BLOCK = 4096  # bytes of a JPEG that its decoder gets at a time; before each the clock is read
_PARTS = 10_000  # chunks, segments, strips; and one more for each _PART bytes of the file
_PART = 512
_BITMAP_READS = 2_000_000  # two of each run of pixels
_SEGMENTS = 20_000  # of a JPEG; one holds up to 64 KiB
# A scan's own data has nothing but 00 and D0 to D7 after an FF.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class ImageError(UserError):
    """Bytes or pixels that no image can be made of; one line."""


class ImageFile(io.BytesIO):
    """`data`, read at most so often, and for at most so many seconds of this thread's time.

    After that `read` raises ImageError. An image of a million parts costs a million reads.
    """

    def __init__(self, data: bytes, seconds: float = DECODE_SECONDS):
        super().__init__(data)
        self._left = _PARTS
        if data[:2] == b"BM":
            self._left = _BITMAP_READS
        elif data[:3] != b"GIF":  # whose comment takes time with the square of its parts
            self._left += len(data) // _PART
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError("too many parts: blocks, chunks or strips of a few bytes each")
        if (size is None or size < 0 or size >= BLOCK) and time.thread_time() > self._end:
            raise ImageError(f"not decoded within {self._seconds:g} s")
        return super().read(size)


def check_header(data: bytes) -> None:
    """Raise ImageError for what is slow to open already; reads no pixel."""
    _check_plain(data)
    _check_strips(data)


def _check_plain(data: bytes) -> None:
    """Raise ImageError for a plain-text PPM that takes too long."""
    if data[:2] in (b"P1", b"P2", b"P3") and len(data) > MAX_PLAIN:
        raise ImageError(
            f"a plain-text PPM of {len(data)} bytes, at most {MAX_PLAIN} are read: save it as a "
            "binary one (P4, P5, P6)"
        )


def _check_strips(data: bytes) -> None:
    """Raise ImageError for a TIFF of too many strips or tiles, which Pillow lists one by one."""
    if data[:2] not in (b"II", b"MM"):
        return
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    big = number(2, 2) == 43  # BigTIFF
    place = number(8, 8) if big else number(4, 4)
    entries = number(place, 8 if big else 2)
    place += 8 if big else 2
    most = _PARTS + len(data) // _PART
    for _ in range(min(entries, _PARTS)):
        tag, count = number(place, 2), number(place + 4, 8 if big else 4)
        if tag in (273, 324) and count > most:  # StripOffsets, TileOffsets
            raise ImageError(f"a TIFF of {count} strips or tiles, at most {most} are read")
        place += 20 if big else 12


def check_scans(data: bytes, width: int, height: int) -> int:
    """Raise ImageError for a JPEG whose scans take too long; returns as many as it may have."""
    most = min(MAX_SCANS, max(1, MAX_SCANNED // (width * height)))
    array = np.frombuffer(data, np.uint8)  # counts four times as fast as bytes.count
    found = np.count_nonzero((array[:-1] == 0xFF) & (array[1:] == 0xDA))
    if found <= most:  # it may also stand in a comment or a thumbnail
        return int(found)
    scans = _scans(data, most)
    if scans > most:
        raise ImageError(
            f"a JPEG of more than {most} scans, at most {most} are decoded at {width} x {height} "
            "pixels: save it anew"
        )
    return scans


def _scans(data: bytes, most: int) -> int:
    """Scans of the first image in a JPEG file; stops at one more than `most`."""
    scans, place = 0, 2
    for _ in range(_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or found.group()[1] == 0xD9:  # end of image
            return scans
        marker = found.group()[1]
        scans += marker == 0xDA
        if scans > most:
            return scans
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        # SOI, TEM and restarts stand alone
        place = found.end() + (0 if marker in (0x01, 0xD8) else max(2, length))
    raise ImageError(f"a JPEG of more than {_SEGMENTS} segments")
