"""What a picture's file says of itself beside its pixels: when it was taken, words of its owner's.

Read from the bytes with bounds; nothing here is a reason not to index a picture.
"""

from __future__ import annotations

import html
import re
from contextlib import suppress
from datetime import datetime, timezone

from PIL import Image

from ernie_vil2.data.decode import FORMATS
from ernie_vil2.data.image_file import ImageFile, check_header

_EXIF, _DATE_TIME_ORIGINAL = 0x8769, 0x9003  # the place of EXIF's own tags, and one of these
_HEAD = 1 << 18  # bytes in which a camera's EXIF lies
_MARKS = (b"Exif\0", b"eXIf", b"EXIF")  # in JPEG, PNG, WebP
_TIFF = (b"II", b"MM")
_SECONDS = 2.0  # of this thread, to read EXIF
_SUBJECT = re.compile(rb"<dc:subject>(.{0,65536}?)</dc:subject>", re.DOTALL)
_ITEM = re.compile(rb"<rdf:li[^>]{0,200}>([^<]{1,800})</rdf:li>")
_MOST_WORDS, _LONGEST = 100, 100


def taken(data: bytes, mtime_ns: int) -> int:
    """Seconds since 1970: EXIF's DateTimeOriginal, else when the file was changed.

    Cameras write the local time, mostly without saying where: it is taken as if it were UTC, so
    that a day begins at its midnight wherever the picture was taken.
    """
    with suppress(Exception):  # what damaged EXIF makes Pillow raise is not documented
        text = _date(data)
        if text is not None:
            when = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
            return int(when.replace(tzinfo=timezone.utc).timestamp())
    return mtime_ns // 10**9


def _date(data: bytes) -> str | None:
    has_exif = data[:2] in _TIFF or any(
        data.find(mark, 0, _HEAD) >= 0 or data.find(mark, max(0, len(data) - _HEAD)) >= 0
        for mark in _MARKS
    )
    if not has_exif:  # most pictures of the web: their header is not read twice
        return None
    check_header(data)
    with Image.open(ImageFile(data, _SECONDS), formats=FORMATS) as image:
        value = image.getexif().get_ifd(_EXIF).get(_DATE_TIME_ORIGINAL)
    return value.strip("\0 ") if isinstance(value, str) else None


def keywords(data: bytes) -> tuple[str, ...]:
    """The words under which photo managers file a picture: dc:subject of XMP, each once.

    Found by its tags in the bytes, without an XML parser, which a hostile file could keep busy.
    """
    place = data.find(b"<dc:subject>")
    if place < 0:
        return ()
    found = _SUBJECT.match(data, place)
    items = _ITEM.findall(found[1]) if found else []
    words = (" ".join(html.unescape(item.decode("utf-8", "replace")).split()) for item in items)
    kept = dict.fromkeys(word for word in words if 0 < len(word) <= _LONGEST and "\0" not in word)
    return tuple(kept)[:_MOST_WORDS]
