"""Which folders are indexed, and how; a collection remembers it in its notes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.data.formats import rows
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import Collection
from ernie_vil2.search.known import below
from ernie_vil2.search.patterns import Patterns

_NOTE = "folders"
Tags = Callable[[str], "tuple[str, ...]"]


@dataclass(frozen=True)
class Folder:
    """A folder, and what is looked at in it.

    Attributes:
        path: absolute, without links.
        leave_out: patterns on paths relative to it.
        follow_links: go into folders that symbolic links lead to.
        tags: of a picture's path, beside those that the file itself has; None: none are given, and
            those that the collection has stay.
    """

    path: str
    leave_out: Patterns
    follow_links: bool = False
    tags: Tags | None = None


@dataclass(frozen=True)
class Folders:
    """What is looked at.

    Attributes:
        each: none within another.
        allow_empty: take all pictures of a folder that is empty or gone out of the collection.
    """

    each: Sequence[Folder]
    allow_empty: bool = False

    def of(self, path: str) -> Folder | None:
        """The one that a path is in."""
        return next((x for x in self.each if path.startswith(below(x.path))), None)

    def tags(self, path: str) -> tuple[str, ...]:
        """Those that are given to a picture."""
        folder = self.of(path)
        return folder.tags(path) if folder is not None and folder.tags is not None else ()

    def keep_tags(self, path: str) -> bool:
        """Whether a picture keeps the tags that the collection has."""
        folder = self.of(path)
        return folder is None or folder.tags is None


def folder_options(
    exclude: Sequence[str], follow_links: bool, tags_file: Path | None
) -> dict[str, Any]:
    """How a folder is looked at, as JSON values, which `make_folders` takes.

    Raises:
        UserError: a pattern that says nothing.
    """
    Patterns(exclude)
    tags = os.path.abspath(tags_file) if tags_file else None
    return {"exclude": list(exclude), "follow_links": follow_links, "tags_file": tags}


def make_folders(wanted: Mapping[str, Mapping[str, Any]], allow_empty: bool) -> Folders:
    """Of path -> `folder_options`; a folder within another is left to that one.

    Raises:
        UserError: a tags file that cannot be read.
    """
    each = []
    for path in _outermost(wanted):
        options = wanted[path]
        tags = read_tags(Path(options["tags_file"]), path) if options["tags_file"] else None
        each.append(Folder(path, Patterns(options["exclude"]), options["follow_links"], tags))
    return Folders(each, allow_empty)


def real_paths(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Absolute, without links.

    Raises:
        UserError: a name that is no UTF-8.
    """
    found = sorted({os.path.realpath(path) for path in paths})
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(f"{path!r}: the folder's name is no UTF-8: rename it") from None
    return found


def remembered(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What `remember` has kept in a collection's notes: path -> `folder_options`."""
    return dict(notes.get(_NOTE, {}))


def remember(collection: Collection, wanted: Mapping[str, Any]) -> None:
    """Keep how these folders are looked at, beside the others of the collection."""
    folders = {**remembered(collection.notes), **wanted}
    folders = {path: folders[path] for path in _outermost(folders)}
    if folders != remembered(collection.notes):
        collection.note(**{_NOTE: folders})


def _outermost(paths: Mapping[str, Any]) -> list[str]:
    return [x for x in sorted(paths) if not any(x.startswith(below(y)) for y in paths if y != x)]


def read_tags(path: Path, folder: str) -> Tags:
    """A function of a picture's path: its tags in a file that `prepare_data.py tag` wrote.

    Held in memory: the index that a data set has of such a file is kept beside it, where pictures
    may lie.

    Args:
        path: of lines {"id", "tags"}; an id is a path, absolute or from `folder` on.
        folder: absolute, without links.

    Raises:
        UserError: the file cannot be read, or a line is something else.
    """
    found: dict[str, dict[str, None]] = {}
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    source = f"{path}:{number}"
                    row = rows.json_object(line, source)
                    name = os.path.join(folder, rows.identity(row.get("id"), '"id"', source))
                    tags = rows.texts(row.get("tags"), '"tags"', source)
                    found.setdefault(os.path.normpath(name), {}).update(dict.fromkeys(tags))
    except OSError as error:
        raise UserError(f"--tags-file {path} cannot be read: {error.strerror}") from error
    except BadRecord as error:
        raise UserError(
            f'{error}: expected lines {{"id": path, "tags": [...]}} in --tags-file'
        ) from error
    return lambda picture: tuple(found.get(picture, ()))
