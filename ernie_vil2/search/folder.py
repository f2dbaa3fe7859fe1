"""The folder of a LanceDB collection: its lock, its notes, and whether it is one at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import read_json, replace_text, sealed, sync
from ernie_vil2.files.lock import Lock, Shared, alone
from ernie_vil2.search.models import check_format

DATA = "pictures.lance"  # LanceDB's own
_NOTES = "collection.json"
_LOCK = ".lock"  # of who writes
_READERS = ".readers"  # of who goes through all pictures
_FORMAT = 1


class Folder:
    """A collection's folder.

    Attributes:
        dim: numbers of a vector.
        made: a random name of the collection, another one after it was made anew.
    """

    def __init__(self, path: Path, lock: Lock | None):
        self.path, self._lock = path, lock
        self._seen: tuple[int, ...] | None = None
        self._mutex = threading.Lock()
        self._content: dict[str, Any] = {}
        self.refresh()

    @property
    def dim(self) -> int:
        return self._content["dim"]

    @property
    def made(self) -> str:
        return self._content["made"]

    @property
    def notes(self) -> Mapping[str, Any]:
        """As they are now; another process may have written them."""
        self.refresh()
        return self._content["notes"]

    def refresh(self) -> None:
        """Read again what changed. Raises UserError where it is damaged or gone."""
        path = self.path / _NOTES
        with self._mutex:
            try:
                state = os.stat(path)
                seen = (state.st_ino, state.st_mtime_ns, state.st_size)
                if seen != self._seen:
                    self._content, self._seen = self._read(path), seen
            except FileNotFoundError as error:
                raise UserError(f"{self.path}: the collection is gone") from error

    def note(self, values: Mapping[str, Any]) -> None:
        """Set notes; None removes one."""
        self.check_writable()
        notes = {**self.notes, **values}
        notes = {name: value for name, value in notes.items() if value is not None}
        _write(self.path, {**self._content, "notes": notes})
        self.refresh()

    def check_writable(self) -> None:
        assert self._lock is not None, "opened to read, or closed"

    def reading(self) -> Shared:
        """As long as it is held, the files of old versions are kept."""
        return Shared(self.path / _READERS)

    def nobody_reads(self) -> contextlib.AbstractContextManager[bool]:
        """Whether nobody holds it; if so, who wants it waits until the block ends."""
        return alone(self.path / _READERS)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            content = read_json(path, sealed=True)
        except ValueError as error:
            raise UserError(
                f"{path} is damaged ({error}): make the collection anew with --rebuild"
            ) from error
        check_format(str(self.path), content.get("format"), _FORMAT)
        del content["checksum"]
        return content


def open_folder(path: Path) -> Folder:
    """To read. Raises UserError where no collection is there."""
    if not (path / _NOTES).is_file():
        raise UserError(_refusal(path))
    return Folder(path, None)


def lock_folder(path: Path, dim: int | None) -> tuple[Lock, bool]:
    """To write: the lock of a collection's folder, which is made where it is missing.

    Returns:
        The lock, and whether the collection is there; if not, what a process that died while it
        made one has left was removed: make the table, then `finish`.
    """
    there = (path / _NOTES).exists()
    if not there and path.exists():
        ours = {_LOCK, _READERS, DATA, f".{_NOTES}"}
        if not path.is_dir() or {x.name for x in path.iterdir()} - ours:
            raise UserError(_refusal(path))
    if not there and dim is None:
        raise UserError(_refusal(path))
    path.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(path / _LOCK)
    except BlockingIOError as error:
        raise UserError(
            f"{path}: another process writes to this collection; wait for its end, or stop it"
        ) from error
    there = (path / _NOTES).exists()
    if not there:
        shutil.rmtree(path / DATA, ignore_errors=True)
    return lock, there


def finish(path: Path, lock: Lock, model: Mapping[str, Any] | None, dim: int) -> Folder:
    """Say that the collection whose table was made is one."""
    (path / _READERS).touch()
    notes = {} if model is None else {"model": dict(model)}
    made = secrets.token_hex(8)
    _write(path, {"format": _FORMAT, "made": made, "dim": dim, "notes": notes})
    sync(path.absolute().parent)
    return Folder(path, lock)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    replace_text(path / _NOTES, sealed(content))
    sync(path)


def _refusal(path: Path) -> str:
    if not path.exists():
        return f"{path}: there is no such collection; make one with tools/index.py"
    if not path.is_dir():
        return f"{path} is a file, and a collection is a folder: name another place"
    return f"{path} is a folder without a collection in it: name the collection, or another place"
