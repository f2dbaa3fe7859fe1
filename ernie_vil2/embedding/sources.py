"""What needs no format to be named: a folder of pictures, a file of texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ernie_vil2.data.formats import rows, spans
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError
from ernie_vil2.search.patterns import Patterns
from ernie_vil2.search.walk import File, Unread, walk


def given(path: str) -> Source:
    """What a path names: a folder of pictures, or a `.txt` file with a text in each line."""
    if os.path.isdir(path):
        return Source({"name": f"{__name__}.PictureFolder", "root": os.path.abspath(path)})
    if path.lower().endswith(".txt"):
        return Source({"name": f"{__name__}.TextLines", "path": os.path.abspath(path)})
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: expected a folder of pictures, or a .txt file")
    raise UserError(
        f"{path} is neither a folder of pictures nor a .txt file with a text a line: name a data "
        f"set's format, as in --dataset name=tsv path={path}"
    )


class TextLines(Reader):
    """A file of texts: a record is a line, its id the line's number from 1."""

    def __init__(self, path: str):
        self._lines = spans.lines(rows.file(path))
        rows.refuse_empty(self, path)

    def __len__(self) -> int:
        return len(self._lines)

    def _get(self, position: int) -> Record:
        source, line = rows.line(self._lines, position)
        text = rows.text(rows.decode(line, source), "text", source)
        return Record(str(position + 1), b"", (text,), (), source)


class _Entry(NamedTuple):
    """A file of a folder.

    Attributes:
        name: its path there, with "/".
        reason: why it can't be read, as far as that is known; empty: not at all.
    """

    name: str
    reason: str = ""
    size: int = 0
    mtime_ns: int = 0


class PictureFolder(Reader):
    """The pictures in a folder and in those below, as `search/walk.py` finds them for an index.

    A record's id is its path in the folder, its source the whole path.

    Args:
        root: the folder.
        listing: of `write_listing`; None: the folder is walked now. With it all processes of a job
            know the same pictures, whatever comes and goes meanwhile.
    """

    def __init__(self, root: str, listing: str | None = None):
        self.root = rows.folder(root)
        self._listing = spans.lines(listing) if listing else None
        self._entries = [] if listing else list(_entries(self.root))
        rows.refuse_empty(self, root)

    def __len__(self) -> int:
        return len(self._entries if self._listing is None else self._listing)

    def _entry(self, position: int) -> _Entry:
        if self._listing is None:
            return self._entries[position]
        return _Entry(*json.loads(self._listing.read(position)))

    def _get(self, position: int) -> Record:
        entry = self._entry(position)
        source = f"{self.root}/{entry.name}"
        if entry.reason:
            raise BadRecord(source, entry.reason)
        # a link may lead out of the folder: it is the user's own
        folder, file = os.path.split(os.path.realpath(source))
        return Record(entry.name, rows.read_image(folder, file, source), (), (), source)

    def digest(self) -> str:
        """SHA-256 over names, sizes and times of all pictures."""
        digest = hashlib.sha256()
        for entry in self._entries:
            digest.update(json.dumps(entry).encode())
        return digest.hexdigest()

    def write_listing(self, path: Path) -> None:
        """Write the names down, for `listing`."""
        with open(path, "w", encoding="ascii") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in self._entries)


def _entries(root: str) -> Iterator[_Entry]:
    for found in walk(root, Patterns()):
        if isinstance(found, File):
            name = os.path.relpath(found.path, root)
            yield _Entry(name, "", found.size, found.mtime_ns)
        elif isinstance(found, Unread):
            yield _Entry(os.path.relpath(found.path, root), found.reason)
