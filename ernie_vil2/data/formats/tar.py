"""The members of a tar file, found by its headers alone, from any header on.

Written here because the standard library's `tarfile` can only go through an archive from its
beginning, and stops for good at the first header that is damaged. Nothing is ever opened or
written by a member's name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

BLOCK = 512  # bytes; headers and contents begin at its multiples
_WINDOW = 1 << 16  # bytes that are searched at a time
_MAGIC, _MAGIC_AT = b"ustar", 257  # POSIX and GNU; the oldest tars have none
_MAX_EXTENSION = 1 << 20  # bytes of a long name or of a pax header
_MAX_EXTENSIONS = 8  # before one member

# (offset, count) -> so many bytes, or as many as there are
Read = Callable[[int, int], bytes]

FILE, DIRECTORY = "file", "directory"
_KINDS = {
    b"\0": FILE,
    b"0": FILE,
    b"7": FILE,  # contiguous
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": DIRECTORY,
    b"6": "pipe",
    b"S": "sparse file",
}
_WITHOUT_CONTENT = b"123456"  # whatever their size says


class Member(NamedTuple):
    """A member of a tar.

    Attributes:
        name: as it stands there, which may be anything.
        kind: FILE, DIRECTORY, or what else it is, in words.
        start: where its first header begins.
        content: where its content does.
        size: bytes of the content.
    """

    name: str
    kind: str
    start: int
    content: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.content + _padded(self.size)

    @property
    def split(self) -> tuple[str, str]:
        """(key, extension) of what may belong to a record, else two empty strings."""
        return ("", "") if self.kind == DIRECTORY else split(self.name)


class BadHeader(ValueError):
    """There is no header where one must stand.

    Attributes:
        is_header: it was one, and is damaged or cut off.
        name: what it named, as far as that can be told.
    """

    def __init__(self, reason: str, block: bytes):
        super().__init__(reason)
        whole = len(block) == BLOCK
        self.is_header = not whole or block.startswith(_MAGIC, _MAGIC_AT)
        name, nul, _ = block[:100].partition(b"\0")
        self.name = _decode(name) if self.is_header and (nul or len(name) == 100) else ""


def member(read: Read, start: int) -> Member | None:
    """The member whose first header begins at `start`; None where the archive ends.

    Raises:
        BadHeader: neither stands there.
    """
    if not read(start, BLOCK).strip(b"\0"):
        return None
    at, long_name, pax = start, "", {}
    try:
        for _ in range(_MAX_EXTENSIONS):
            block = read(at, BLOCK)
            kind, size = _checked(block)
            if kind not in (b"x", b"X", b"g", b"L", b"K"):
                break
            extension = read(at + BLOCK, size) if size <= _MAX_EXTENSION else b""
            if len(extension) < size:
                raise BadHeader(f"an extended header of {size} bytes", block)
            if kind in (b"x", b"X"):
                pax = _pax(extension, block)
            elif kind == b"L":
                long_name = _decode(extension.partition(b"\0")[0])
            at += BLOCK + _padded(size)
        else:
            raise BadHeader("too many extended headers", block)
        if "size" in pax:
            size = _number(pax["size"].encode(), 10, block)
    except BadHeader as error:
        error.is_header |= at > start  # the first of them was a good one
        raise
    name = pax.get("path") or long_name or _name(block)
    words = _KINDS.get(kind, f"member of type {kind!r}")
    if kind in (b"0", b"\0") and name.endswith("/"):
        words = DIRECTORY
    if any(key.startswith("GNU.sparse.") for key in pax):
        words = _KINDS[b"S"]
    if words == DIRECTORY or kind in _WITHOUT_CONTENT:
        size = 0
    return Member(name, words, start, at + BLOCK, size)


def next_header(read: Read, start: int, end: int = sys.maxsize) -> int | None:
    """Where the first header begins that lies between `start` and `end`, both at blocks.

    None where there is none; the headers of the oldest tars cannot be told from content.
    """
    assert start % BLOCK == 0, start
    while start < end and (window := read(start, min(_WINDOW, end - start))):
        at = window.find(_MAGIC, _MAGIC_AT)
        while at >= 0:
            begin = at - _MAGIC_AT
            block = window[begin : begin + BLOCK]
            if begin % BLOCK == 0 and len(block) == BLOCK and _sums_up(block):
                return start + begin
            at = window.find(_MAGIC, at + 1)
        start += _WINDOW
    return None


def split(name: str) -> tuple[str, str]:
    """(key, extension) as webdataset has them: cut at the first dot of the base name.

    ("", "") for what belongs to no record: a name without a dot, or that begins with one.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and dot else ("", "")


def leaves(name: str) -> bool:
    """Whether a file that is unpacked by this name would lie outside of the folder."""
    return name.startswith("/") or ".." in name.split("/")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _checked(block: bytes) -> tuple[bytes, int]:
    """(type, size) of a header."""
    if len(block) < BLOCK:
        raise BadHeader("the file ends within a header", block)
    if not _sums_up(block):
        raise BadHeader("a wrong checksum", block)
    size = block[124:136]
    if size[0] in (0o200, 0o377):  # GNU, for what octal digits cannot hold
        number = int.from_bytes(size[1:], "big") if size[0] == 0o200 else -1
    else:
        number = _number(size.partition(b"\0")[0].strip(), 8, block)
    if not 0 <= number < 1 << 62:
        raise BadHeader("a size that no file has", block)
    return block[156:157], number


def _sums_up(block: bytes) -> bool:
    """Whether the header's checksum is right, be it of signed or unsigned bytes."""
    stated = block[148:156]
    try:
        expected = int(stated.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return False
    total = sum(block) - sum(stated) + 8 * ord(" ")
    if total == expected:
        return True
    signed = block[:148] + block[156:]
    return total - 256 * sum(byte > 127 for byte in signed) == expected


def _number(digits: bytes, base: int, block: bytes) -> int:
    if not digits:
        return 0
    if not digits.isdigit() or len(digits) > 24:
        raise BadHeader("a size that is no number", block)
    try:
        return int(digits, base)
    except ValueError:
        raise BadHeader("a size that is no number", block) from None


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    if prefix and block.startswith(b"ustar\0", _MAGIC_AT):
        name = prefix + b"/" + name
    return _decode(name)


def _pax(content: bytes, block: bytes) -> dict[str, str]:
    """Records "length key=value\\n", the length that of the whole record."""
    found, at = {}, 0
    while at < len(content) and content[at]:
        digits = content[at : at + 20].partition(b" ")[0]
        length = _number(digits, 10, block)
        record = content[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not equals or record[-1:] != b"\n":
            raise BadHeader("a damaged pax header", block)
        found[_decode(key)] = _decode(value)
        at += length
    return found
