"""Whole files of a store on this machine's disk, for all its processes, within a bound.

    files/     what is whole; a name has the digest of URL and version, and the size
    drafts/    what is being fetched, each by the process that holds its lock
    away/      what could not be had, and why
    warned     touched when a warning was given
    lock       held while room is made and a draft begins

A file comes into files/ by renaming, once it is on the disk. Locks end with their processes, so one
that is killed leaves a draft that nobody holds: it is never read, and soon removed. What was not
opened for longest makes room first; what a process holds open, only where nothing else is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ernie_vil2.data.files.retry import StoreError
from ernie_vil2.data.files.room import Room, lock
from ernie_vil2.data.files.store import Remote
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import replace_text, sync
from ernie_vil2.files.user_cache import user_cache

_AWAY = 600.0  # seconds before a file that could not be had is asked for again
_LOOK = 0.05  # seconds between two looks for room

Fetch = Callable[[Path], None]  # writes a file of the store to a path; raises StoreError


class Cache:
    """Files of a store, fetched when they are first opened.

    It can be pickled, and used by forked processes and by threads.

    Args:
        folder: where; None: ernie_vil2/files in the user's cache folder.
        most: bytes of all files, those that are being fetched included; None: half of what the
            disk has free, when room is made.

    Raises:
        UserError: the folder cannot be written, or the disk has less free than `most`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, most: int | None = None):
        self.folder = Path(folder or user_cache() / "files").absolute()
        self._room = room = Room(self.folder, most)
        self._files, self._drafts, self._away = room.files, room.drafts, self.folder / "away"
        with _disk(self.folder):
            for each in (self._files, self._drafts, self._away):
                each.mkdir(parents=True, exist_ok=True)
            with room.locked():
                used = room.used()
        if most is not None and most > used + room.free():
            raise UserError(
                f"a cache of {most} bytes does not fit: the disk of {self.folder} has "
                f"{room.free()} free; lower DataLoader.store.cache_gb, or set "
                "DataLoader.store.cache_dir to a folder on another disk"
            )

    def bound(self) -> int:
        """Bytes that all files may have."""
        return self._room.bound()

    def check(self, remote: Remote) -> None:
        """Raise UserError for a file that will never fit."""
        if remote.size > self.bound():
            raise UserError(
                f"{remote.url} has {remote.size} bytes, more than the cache in {self.folder} may "
                "hold: raise DataLoader.store.cache_gb, or set DataLoader.store.cache_dir to a "
                "folder on a larger disk"
            )

    def open(self, remote: Remote, fetch: Fetch) -> BinaryIO:
        """The file, fetched if it is not there; where another process fetches it, that one's.

        Raises:
            StoreError: it could not be had, now or a while ago by any process of this machine.
            UserError: this machine's disk refuses it.
        """
        while True:
            file = self._opened(remote) or self._brought(remote, fetch, patient=True)
            if file is not None:
                return file

    def bring(self, remote: Remote, fetch: Fetch) -> None:
        """Fetch the file, unless it is there, or on its way, or takes the room of one in use."""
        file = self._opened(remote) or self._brought(remote, fetch, patient=False)
        if file is not None:
            file.close()

    def forgive(self, remotes: Iterable[Remote]) -> None:
        """Let these be asked for again, though they could not be had a while ago."""
        for name in set(os.listdir(self._away)).intersection(map(_name, remotes)):
            (self._away / name).unlink(missing_ok=True)

    # -- One file ----------------------------------------------------------------------------------

    def _opened(self, remote: Remote) -> BinaryIO | None:
        """The file if it is here, whole; the lock tells others that it is in use while open."""
        place = self._files / _name(remote)
        try:
            file = _open(place)
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_size != remote.size:  # somebody else's doing
            file.close()
            place.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # it may be another user's
            os.utime(file.fileno())
        return file  # as good as any if it was removed a moment ago

    def _brought(self, remote: Remote, fetch: Fetch, patient: bool) -> BinaryIO | None:
        """The file, fetched; None: look again.

        Args:
            patient: wait for another process that fetches the same, and for room.
        """
        path = self._drafts / _name(remote)
        place, file = self._files / path.name, None
        self._refuse_away(path.name)
        with _disk(self.folder):
            draft = self._reserved(path, remote, patient)
            if draft is None:
                return None
            try:
                fetch(path)
                sync(path)
                os.replace(path, place)
                with contextlib.suppress(FileNotFoundError):  # somebody had need of the room
                    file = _open(place)
            except BaseException as error:
                path.unlink(missing_ok=True)
                if isinstance(error, StoreError):
                    replace_text(self._away / path.name, str(error))
                raise
            finally:
                # not by closing alone: a process forked meanwhile has it open too
                fcntl.flock(draft, fcntl.LOCK_UN)
                draft.close()
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_SH)
            return file

    def _refuse_away(self, name: str) -> None:
        note = self._away / name
        with contextlib.suppress(FileNotFoundError):
            if time.time() - note.stat().st_mtime < _AWAY:
                raise StoreError(note.read_text(encoding="utf-8"))

    def _reserved(self, path: Path, remote: Remote, patient: bool) -> BinaryIO | None:
        """A draft that is locked and has room; None after waiting, or if another has fetched it."""
        with self._room.locked():
            draft = open(path, "ab")  # noqa: SIM115
            busy, full = not lock(draft), False
            # what was opened may have become the file, or been given up, before it was locked
            if not busy and _is_at(path, draft):
                full = not (self._files / path.name).exists()
                if full:
                    self.check(remote)
                    if self._room.make(remote.size, path, patient):
                        return draft
                path.unlink()
        with draft:
            if patient and busy:
                fcntl.flock(draft, fcntl.LOCK_SH)
            elif patient and full:  # the room is for others that are on their way
                time.sleep(_LOOK)
        return None


def _name(remote: Remote) -> str:
    """Of a file in the cache: other for another version, and for people the URL's last part."""
    digest = hashlib.blake2b(f"{remote.url}\0{remote.version}".encode(), digest_size=16)
    tail = re.sub(r"[^\w.]", "_", remote.url.rpartition("/")[2], flags=re.ASCII)
    return f"{digest.hexdigest()}-{remote.size}-{tail[-80:]}"


def _open(path: Path) -> BinaryIO:
    return open(path, "rb", buffering=0)


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether this path names an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Inside, what the disk refuses becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache in {folder} cannot be written ({error.strerror or error}): make room "
            "there, or set DataLoader.store.cache_dir to a folder on another disk"
        ) from error
