"""What in folders is not as a collection has it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ernie_vil2.errors import UserError
from ernie_vil2.search.bad import BadPictures
from ernie_vil2.search.collection import Collection
from ernie_vil2.search.folders import Folder, Folders
from ernie_vil2.search.known import Known, below
from ernie_vil2.search.walk import File, Foreign, Unread, walk

_BLOCK = 4096  # files that are compared with the collection at a time


class FolderGone(UserError):
    """A folder is empty, not there or not to be listed, and nobody has said that it should be."""


@dataclass
class Changes:
    """What was found.

    Attributes:
        known: what the collection has, with what was seen of it.
        todo: files that are new, or have another size or time.
        unread, unlisted: files and folders that could not be looked at, and these folders: what the
            collection has of them, and of what is below, stays.
        bad: paths of what there is no picture of; more come while `todo` is read.
        foreign: suffix -> pictures in formats that are not read.
    """

    known: Known
    todo: list[File] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    unlisted: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    foreign: Counter[str] = field(default_factory=Counter)

    def unclear(self, path: str) -> bool:
        """Whether nothing is known now of what is at a path."""
        return path in self.unread or any(path.startswith(below(x)) for x in self.unlisted)


def compare(folders: Folders, known: Known, bad: BadPictures) -> Changes:
    """Look through the folders.

    Raises:
        FolderGone: one is not there, or is empty and the collection has pictures of it.
    """
    known.forget()
    changes = Changes(known)
    with progress("looking", " files", None) as bar:
        for folder, had in zip(folders.each, known.inside):
            block, found = [], 0
            for file in _files(folder, changes, bad):
                bar.update()
                found += 1
                if bad.still(*file):
                    changes.bad.add(file.path)
                    continue
                block.append(file)
                if len(block) == _BLOCK:
                    changes.todo += known.changed(block)
                    block = []
            changes.todo += known.changed(block)
            if not found and not folders.allow_empty:
                _check_empty(folder.path, had)
    return changes


def known_of(collection: Collection, folders: Folders) -> Known:
    """What the collection has; a picture that lacks some of its tags is to be read again."""

    def again(path: str, has: tuple[str, ...]) -> bool:
        return not set(folders.tags(path)) <= set(has)

    return Known(collection, [folder.path for folder in folders.each], again)


def progress(title: str, unit: str, total: int | None) -> Any:
    """A bar that shows rate and time left; where the total is not known only a terminal has it."""
    return tqdm(
        desc=title,
        total=total,
        unit=unit,
        dynamic_ncols=True,
        leave=total is not None,
        disable=None if total is None else False,
        mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file keeps every state of it
    )


def _files(folder: Folder, changes: Changes, bad: BadPictures) -> Iterator[File]:
    try:
        for found in walk(folder.path, folder.leave_out, folder.follow_links):
            if isinstance(found, File):
                yield found
            elif isinstance(found, Foreign):
                changes.foreign[found.suffix] += 1
            else:
                _note(found, changes, bad)
    except (FileNotFoundError, NotADirectoryError):  # nothing is found: `_check_empty` tells
        return
    except OSError as error:
        reason = error.strerror or str(error)
        raise FolderGone(f"{folder.path} cannot be listed ({reason}): see to its disk") from error


def _note(found: Unread, changes: Changes, bad: BadPictures) -> None:
    changes.unread.add(found.path)
    if found.is_folder:
        changes.unlisted.append(found.path)
    changes.bad.add(found.path)
    bad.add(found.path, found.reason, None, None)


def _check_empty(folder: str, had: int) -> None:
    there = os.path.isdir(folder)
    if had:
        raise FolderGone(
            f"{folder} {'holds no picture now' if there else 'is not there'}, and the collection "
            f"has {had} of its pictures: is its disk mounted? --allow-empty takes them out of the "
            "collection"
        )
    if not there:
        raise FolderGone(f"{folder} is no folder: name one that holds pictures")
