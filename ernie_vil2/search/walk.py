"""The pictures in a folder and in those below it, found without opening more than is needed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, Union

from ernie_vil2.search.patterns import SKIPPED, Patterns

# What `data/decode.py` reads, by the ends of names; a file without one is looked into.
SUFFIXES = frozenset(
    f".{end}"
    for ends in (
        "jpg jpeg jpe jfif mpo",
        "png apng",
        "webp gif bmp dib tif tiff",
        "ppm pgm pbm pnm",
    )
    for end in ends.split()
)
# Pictures that it does not read: counted, so that nobody looks for them in vain.
FOREIGN = frozenset(
    f".{end}"
    for ends in ("heic heif avif jxl jp2 svg psd", "cr2 cr3 nef arw dng raf orf rw2")
    for end in ends.split()
)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_LAST = 2**63 - 1


class File(NamedTuple):
    """A file that seems to be a picture. path: absolute; size in bytes; mtime_ns since 1970."""

    path: str
    size: int
    mtime_ns: int


def file_at(path: str, status: os.stat_result) -> File:
    """Of its status. A time beyond the year 2262, which no store keeps, is taken for the last."""
    return File(path, status.st_size, max(-_LAST, min(status.st_mtime_ns, _LAST)))


class Unread(NamedTuple):
    """What could not be looked at.

    Attributes:
        path: absolute; it may hold surrogates for bytes that are no UTF-8.
        reason: why.
        is_folder: whether pictures may lie below, of which nothing is known now.
    """

    path: str
    reason: str
    is_folder: bool


class Foreign(NamedTuple):
    """A picture in a format that is not read. suffix: such as ".heic"."""

    suffix: str


Found = Union[File, Unread, Foreign]


def walk(folder: str, leave_out: Patterns, follow_links: bool = False) -> Iterator[Found]:
    """Everything in `folder` that concerns an index, folder by folder, each in order of its names.

    Hidden things, the folders of `SKIPPED`, pipes, sockets and devices are passed over unopened.

    Args:
        folder: absolute.
        leave_out: patterns on paths relative to it.
        follow_links: go into folders that symbolic links lead to, each folder once; links to files
            are followed anyway.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    seen = {_identity(os.stat(folder))}
    left = [(folder, "")]  # of each: its path, and that from `folder` on, with a "/" after it
    while left:
        path, below = left.pop()
        try:
            entries = _listed(path)
        except OSError as error:
            if not below:
                raise
            if not isinstance(error, FileNotFoundError):  # deleted since
                yield Unread(path, _reason(error), True)
            continue
        folders = []
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            try:
                is_folder = entry.is_dir(follow_symlinks=follow_links)
                if leave_out.fit(below + entry.name, is_folder):
                    continue
                if not _is_utf8(entry.name):
                    if is_folder or _suffix(entry) in SUFFIXES:
                        yield Unread(entry.path, "its name is no UTF-8: rename it", is_folder)
                elif not is_folder:
                    yield from _file(entry)
                elif not follow_links or _identity(entry.stat()) not in seen:
                    if follow_links:  # else nothing is met twice
                        seen.add(_identity(entry.stat()))
                    folders.append((entry.path, f"{below}{entry.name}/"))
            except FileNotFoundError:  # deleted since, or a link that leads nowhere
                continue
            except OSError as error:
                if _suffix(entry) in SUFFIXES:
                    yield Unread(entry.path, _reason(error), False)
        left.extend(reversed(folders))


def _listed(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _file(entry: os.DirEntry[str]) -> Iterator[File | Foreign]:
    """Raises OSError."""
    suffix = _suffix(entry)
    if suffix in FOREIGN:
        yield Foreign(suffix)
    elif not suffix or suffix in SUFFIXES:
        status = entry.stat()
        if stat.S_ISREG(status.st_mode) and (suffix or _begins_as_picture(entry.path)):
            yield file_at(entry.path, status)


def open_regular(path: str) -> int:
    """A descriptor of a regular file; of what took its place since, nothing is waited for.

    Raises:
        OSError: it cannot be opened.
        IsADirectoryError: it is no regular file now.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(0, "it is no regular file", path)
    return descriptor


def _begins_as_picture(path: str) -> bool:
    descriptor = open_regular(path)
    try:
        return os.read(descriptor, 8).startswith(_BEGINNINGS)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
