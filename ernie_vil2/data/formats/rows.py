"""Parts of a row, checked: each function raises BadRecord with the row's place and what is wrong.

`source` is the place, "file:row". What the user names in a configuration is checked here too, and
raises UserError.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence, Sized
from typing import Any

from ernie_vil2.data.files.names import file as file
from ernie_vil2.data.files.names import find, local
from ernie_vil2.data.files.systems import is_url
from ernie_vil2.data.formats.spans import Spans
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError

MAX_IMAGE_BYTES = 1 << 30  # encoded; as 16-bit RGBA 89 million pixels take 0.7 GiB
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


def line(spans: Spans, row: int, *limit: int) -> tuple[str, bytes]:
    """(source, bytes) of a row from 0, neither blank nor with NUL; its first `limit` bytes."""
    source = f"{spans.path}:{row + 1}"
    data = _read(spans, row, source, *limit).rstrip(b"\r")
    if not data.strip():
        raise BadRecord(source, "blank line")
    if b"\0" in data:
        raise BadRecord(source, f"NUL at byte {data.index(0) + 1}")
    return source, data


def element(spans: Spans, row: int, prefix: str = "") -> tuple[str, dict[str, Any]]:
    """(source, dict) of an element of a JSON array; `prefix` tells two arrays of one file apart."""
    source = f"{spans.path}:{prefix}{row + 1}"
    return source, json_object(_read(spans, row, source), source)


def _read(spans: Spans, row: int, source: str, *limit: int) -> bytes:
    try:
        return spans.read(row, *limit)
    except OSError as error:
        raise BadRecord(source, error.strerror or str(error)) from error
    except MemoryError:
        raise BadRecord(source, "no memory for a row of this size") from None


def place(source: str) -> tuple[str, int]:
    """The file and the row from 0 of a "file:row"; -1: it is none."""
    path, _, row = source.rpartition(":")
    return path, int(row) - 1 if row.isascii() and row.isdecimal() and len(row) < 16 else -1


def decode(data: bytes, source: str) -> str:
    """Text from UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(source, f"invalid UTF-8: {error.reason}") from error


def json_object(data: bytes, source: str) -> dict[str, Any]:
    """A dict from JSON in UTF-8."""
    try:
        value = json.loads(decode(data, source))
    except BadRecord:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRecord(source, f"invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRecord(source, f"a JSON {type(value).__name__}, expected an object")
    return value


def text(value: Any, what: str, source: str) -> str:
    """A string with something in it, without the white space around it."""
    if not isinstance(value, str):
        raise BadRecord(source, f"{what} is {'missing' if value is None else 'no string'}")
    value = value.strip()
    if not value:
        raise BadRecord(source, f"{what} is empty")
    if not _is_text(value):
        raise BadRecord(source, f"{what} holds NUL or half a character")
    return value


def _has_surrogate(value: str) -> bool:
    """Whether JSON's escapes left half of a pair, which no UTF-8 can hold."""
    return not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)


def texts(value: Any, what: str, source: str, at_least: int = 0) -> tuple[str, ...]:
    """A list of strings, each with something in it."""
    if not isinstance(value, list):
        raise BadRecord(source, f"{what} is no list")
    if len(value) < at_least:
        raise BadRecord(source, f"{what} is empty")
    return tuple(text(item, what, source) for item in value)


def keyed_texts(row: Mapping[str, Any], other: Collection[str]) -> dict[str, tuple[str, ...]]:
    """`Record.texts` of a row's fields but the `other` ones: strings, and lists of strings.

    What is no text, such as a number or a blank, is left out: nobody may have asked for it.
    """
    found = {}
    for name, value in row.items():
        values = [value] if isinstance(value, str) else value
        if name not in other and isinstance(values, list):
            kept = tuple(v.strip() for v in values if isinstance(v, str) and _is_text(v))
            if kept:
                found[name] = kept
    return found


def _is_text(value: str) -> bool:
    return bool(value.strip()) and "\0" not in value and not _has_surrogate(value)


def identity(value: Any, what: str, source: str) -> str:
    """An id, which JSON may give as a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value, what, source)


def from_base64(data: bytes, source: str) -> bytes:
    """Bytes from standard or URL-safe base64, padded or not."""
    data = data.strip().translate(_FROM_URLSAFE).rstrip(b"=")
    illegal = data.translate(None, _BASE64)
    if illegal:
        raise BadRecord(source, f"invalid base64: {illegal[:1]!r} is no sign of it")
    if not data or len(data) % 4 == 1:
        raise BadRecord(source, f"invalid base64: {len(data)} signs")
    return base64.b64decode(data + b"=" * (-len(data) % 4))


def read_image(root: str, path: str, source: str) -> bytes:
    """The file at `path` within the folder `root`, which is absolute and without links."""
    full = os.path.realpath(os.path.join(root, path))
    if not full.startswith(os.path.join(root, "")):
        raise BadRecord(source, f"{path} leaves the folder {root}")
    try:
        status = os.stat(full)
        if not stat.S_ISREG(status.st_mode):
            raise BadRecord(source, f"{path} is no file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise BadRecord(
                source, f"image {path} has {status.st_size} bytes, at most {MAX_IMAGE_BYTES}"
            )
        with open(full, "rb") as file:
            data = file.read()
    except MemoryError:
        raise BadRecord(source, f"no memory for image {path}: {status.st_size} bytes") from None
    except BadRecord:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadRecord(source, f"cannot read image {path}: {reason}") from error
    if not data:
        raise BadRecord(source, f"image {path} is empty")
    return data


def files(path: Any) -> list[str]:
    """The files that a path, a pattern or a list of these names, patterns in alphabetical order."""
    if isinstance(path, Sequence) and not isinstance(path, str):
        found = [name for item in path for name in files(item)]
        if not found:
            raise UserError("the list of data files is empty: name at least one")
        return found
    return local(path)


def local_files(path: Any, suffix: str) -> list[str]:
    """The files of this machine that are named in any of the ways of `names.find`."""
    found = find(path, suffix)
    for name in found:
        if is_url(name):
            raise UserError(
                f"{name} is in a store: files that end with {suffix} are read from this machine's "
                "disks: copy it here, or make shards of it, which are read from stores"
            )
    return found


def folder(path: Any) -> str:
    """The absolute path of a folder, without links."""
    if not isinstance(path, (str, os.PathLike)) or not os.path.isdir(path):
        raise UserError(f"image folder {path} does not exist")
    return os.path.realpath(path)


def refuse_empty(reader: Sized, what: str) -> None:
    """Raise UserError for a data set without a row; `what` names it."""
    if len(reader) == 0:
        raise UserError(f"{what} holds no record: the data set is empty")
