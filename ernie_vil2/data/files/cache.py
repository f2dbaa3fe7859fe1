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
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ernie_vil2.data.files.retry import StoreError
from ernie_vil2.data.files.store import Remote
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import replace_text, sync

log = logging.getLogger("ernie_vil2")
_AWAY = 600.0  # seconds before a file that could not be had is asked for again
_LOOK = 0.05  # seconds between two looks for room

_Entry = tuple[int, int, str]  # when a file was last opened, its bytes, its path
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
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = Path(folder or home / "ernie_vil2" / "files").absolute()
        self._most = most
        self._files, self._drafts, self._away = (
            self.folder / name for name in ("files", "drafts", "away")
        )
        with _disk(self.folder):
            for each in (self._files, self._drafts, self._away):
                each.mkdir(parents=True, exist_ok=True)
            with self._locked():
                used, _ = self._used()
        if most is not None and most > used + self._free():
            raise UserError(
                f"a cache of {most} bytes does not fit: the disk of {self.folder} has "
                f"{self._free()} free; lower DataLoader.store.cache_gb, or set "
                "DataLoader.store.cache_dir to a folder on another disk"
            )

    def bound(self, used: int = 0) -> int:
        """Bytes that all files may have; `used` is what they have now."""
        return (used + self._free()) // 2 if self._most is None else self._most

    def check(self, remote: Remote) -> None:
        """Raise UserError for a file that will never fit."""
        if remote.size > self.bound(sum(size for _, size, _ in self._entries())):
            raise self._too_large(remote)

    def _too_large(self, remote: Remote) -> UserError:
        return UserError(
            f"{remote.url} has {remote.size} bytes, more than the cache in {self.folder} may hold: "
            "raise DataLoader.store.cache_gb, or set DataLoader.store.cache_dir to a folder on a "
            "larger disk"
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
        with self._locked():
            if (self._files / path.name).exists():
                return None
            draft = open(path, "ab")  # noqa: SIM115
            busy = not _lock(draft)
            if not busy:
                if self._make_room(path, remote, patient):
                    return draft
                path.unlink()
        with draft:
            if patient and busy:
                fcntl.flock(draft, fcntl.LOCK_SH)
            elif patient:  # the room is for others that are on their way
                time.sleep(_LOOK)
        return None

    # -- All files ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _free(self) -> int:
        """Bytes that the disk has free."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def _entries(self) -> list[_Entry]:
        """Of each file that is whole, the one to remove first at the front."""
        found = []
        with os.scandir(self._files) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        return sorted(found)

    def _drafted(self, mine: Path | None = None) -> dict[str, int]:
        """Others' drafts, and the bytes that they will have; killed processes' are removed."""
        found = {}
        for path in self._drafts.iterdir():
            if path == mine:
                continue
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                if _lock(file):
                    path.unlink()
                else:
                    found[path.name] = int(path.name.split("-")[1])
        return found

    def _used(self, mine: Path | None = None) -> tuple[int, list[_Entry]]:
        """Bytes of all files, drafts but `mine` included, and the files that are whole."""
        drafts = self._drafted(mine)  # first: what becomes whole meanwhile is then in both
        entries = self._entries()
        for _, _, path in entries:
            drafts.pop(os.path.basename(path), None)
        return sum(drafts.values()) + sum(size for _, size, _ in entries), entries

    def _make_room(self, draft: Path, remote: Remote, patient: bool) -> bool:
        """Remove what was not opened for longest, until the file fits; whether it does.

        Args:
            patient: remove files that are in use as well, whose readers keep what they have open.
        """
        used, entries = self._used(draft)
        bound = self.bound(used)
        if remote.size > bound:
            raise self._too_large(remote)
        excess = used + remote.size - bound
        for spare_used in (True, False) if patient else (True,):
            for _, size, path in entries if excess > 0 else ():
                if excess > 0 and _removed(path, spare_used):
                    excess -= size
                    self._warn(spare_used)
        return excess <= 0

    def _warn(self, spared: bool) -> None:
        """Tell once in a while, by one process for all, that what is in use had to go."""
        stamp = self.folder / "warned"
        if spared or (stamp.exists() and time.time() - stamp.stat().st_mtime < _AWAY):
            return
        stamp.touch()
        log.warning(
            "the cache in %s is too small for the files that are read at once, which are fetched "
            "again and again: raise DataLoader.store.cache_gb",
            self.folder,
        )


def _name(remote: Remote) -> str:
    """Of a file in the cache: other for another version, and for people the URL's last part."""
    digest = hashlib.blake2b(f"{remote.url}\0{remote.version}".encode(), digest_size=16)
    tail = re.sub(r"[^\w.]", "_", remote.url.rpartition("/")[2], flags=re.ASCII)
    return f"{digest.hexdigest()}-{remote.size}-{tail[-80:]}"


def _open(path: Path) -> BinaryIO:
    return open(path, "rb", buffering=0)


def _lock(file: BinaryIO) -> bool:
    """Take a file for this process alone; whether nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(path: str, spare_used: bool) -> bool:
    """Whether this removed a file of the cache; `spare_used`: not one that somebody has open."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if _lock(file) or not spare_used:
            os.unlink(path)
            return True
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
