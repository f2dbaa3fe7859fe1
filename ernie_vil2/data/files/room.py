"""How many bytes the cache has, and what it may have: files make room for others."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("ernie_vil2")
_QUIET = 600.0  # seconds between two warnings
_Entry = tuple[int, int, str]  # when a file was last opened, its bytes, its path


class Room:
    """The folders of a cache, whose files and drafts are locked by those who have them open.

    Args:
        folder: of the cache; with files/ for what is whole, and drafts/ for what is being fetched,
            each by the process that holds its lock. The second part of their names, after "-", is
            their size.
        most: bytes of both; None: half of what the disk has free and they take.
    """

    def __init__(self, folder: Path, most: int | None):
        self.folder, self.most = folder, most
        self.files, self.drafts = folder / "files", folder / "drafts"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process makes room or begins a draft."""
        with open(self.folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:  # not by closing alone: a process forked meanwhile has it open too
                fcntl.flock(file, fcntl.LOCK_UN)

    def free(self) -> int:
        """Bytes that the disk has free."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def bound(self) -> int:
        """Bytes that files and drafts may have."""
        if self.most is not None:
            return self.most
        return (sum(size for _, size, _ in self._entries()) + self.free()) // 2

    def used(self, mine: Path | None = None) -> int:
        """Bytes of all files and of all drafts but `mine`; call it locked."""
        return self._used(mine)[0]

    def _entries(self) -> list[_Entry]:
        """Of each file that is whole, the one to remove first at the front."""
        found = []
        with os.scandir(self.files) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        return sorted(found)

    def _drafted(self, mine: Path | None = None) -> dict[str, int]:
        """Others' drafts, and the bytes that they will have; killed processes' are removed."""
        found = {}
        for path in self.drafts.iterdir():
            if path == mine:
                continue
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                if lock(file):
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

    def make(self, size: int, mine: Path, patient: bool) -> bool:
        """Remove what was not opened for longest, until a draft fits; whether it does.

        Call it locked.

        Args:
            size: bytes of the draft, at most the bound.
            mine: its path.
            patient: remove files that are in use as well, whose readers keep what they have open.
        """
        used, entries = self._used(mine)
        excess = used + size - self.bound()
        for spare_used in (True, False) if patient else (True,):
            for _, bytes_, path in entries if excess > 0 else ():
                if excess > 0 and _removed(path, spare_used):
                    excess -= bytes_
                    self._warn(spare_used)
        return excess <= 0

    def _warn(self, spared: bool) -> None:
        """Tell once in a while, by one process for all, that what is in use had to go."""
        stamp = self.folder / "warned"
        if spared or (stamp.exists() and time.time() - stamp.stat().st_mtime < _QUIET):
            return
        stamp.touch()
        log.warning(
            "the cache in %s is too small for the files that are read at once, which are fetched "
            "again and again: raise DataLoader.store.cache_gb",
            self.folder,
        )


def lock(file: BinaryIO) -> bool:
    """Take a file for this process alone; whether nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(path: str, spare_used: bool) -> bool:
    """Whether this removed a file of the cache; `spare_used`: not one that somebody has open."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if lock(file) or not spare_used:
            os.unlink(path)
            return True
    return False
