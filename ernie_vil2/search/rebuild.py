"""A collection made anew beside the old one, which is searched until the new one has its place."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import exchange, sync
from ernie_vil2.search.collection import Collection
from ernie_vil2.search.folder import lock_folder, open_folder
from ernie_vil2.search.open import open_collection

_DRAFT = "rebuild"  # a note of a collection that is not finished


@contextlib.contextmanager
def rebuilt(uri: str, model: Mapping[str, Any], dim: int) -> Iterator[Collection]:
    """A new collection, which takes the place of that at `uri` when the block ends well.

    Whatever ends this process, the old one or the new one is there. What an interrupted one has
    made stays beside it, and the next goes on with that.

    Raises:
        UserError: as `open_collection`.
    """
    path = Path(os.path.abspath(uri))
    draft = _draft_path(uri)
    lock, _ = lock_folder(path, dim)  # nobody else may write to what is about to go
    try:
        collection = _draft(draft, model, dim)
        try:
            yield collection
            collection.note(**{_DRAFT: None})
        finally:
            collection.close()
        exchange(draft, path)
        sync(path.parent)
        shutil.rmtree(draft, ignore_errors=True)
    finally:
        lock.release()


def draft_notes(uri: str) -> Mapping[str, Any]:
    """Of the collection that will take the place of that at `uri`; none: nobody makes one."""
    with contextlib.suppress(UserError, OSError):
        return open_folder(_draft_path(uri)).notes
    return {}


def _draft_path(uri: str) -> Path:
    path = Path(os.path.abspath(uri))
    return path.with_name(f".{path.name}.rebuild")


def _draft(draft: Path, model: Mapping[str, Any], dim: int) -> Collection:
    """A collection to write to, which may have pictures already."""
    try:
        collection = open_collection(os.fspath(draft), model, dim=dim, write=True)
        if collection.notes.get(_DRAFT) or not collection.count():
            collection.note(**{_DRAFT: True})
            return collection
        collection.close()  # an old one that has given its place to a new one
    except UserError:  # of another model, or damaged
        pass
    shutil.rmtree(draft, ignore_errors=True)
    collection = open_collection(os.fspath(draft), model, dim=dim, write=True)
    collection.note(**{_DRAFT: True})
    return collection
