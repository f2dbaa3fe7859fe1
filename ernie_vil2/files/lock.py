"""One process at a time: a lock that the kernel frees however its holder ends, kill -9 included."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# Files that this process has locked, by device and inode: fcntl's locks bind processes, so two
# holders in one would both have it, and closing any descriptor of the file would free it.
_held: set[tuple[int, int]] = set()


class Lock:
    """An exclusive lock of fcntl's on a file, which is made where it is missing and stays.

    Forked children do not have it. Where the file system knows no locks, nobody is kept away.
    """

    def __init__(self, path: Path):
        """Raises BlockingIOError where another has it, OSError where the disk refuses."""
        with contextlib.suppress(FileNotFoundError):
            if _key(os.stat(path)) in _held:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fspath(path))
        self._process = os.getpid()
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(self._file)
                raise BlockingIOError(errno.EAGAIN, error.strerror, os.fspath(path)) from error
        self._key = _key(os.fstat(self._file))
        _held.add(self._key)

    def release(self) -> None:
        """Give it back; a second time, or in a forked child, does nothing."""
        if self._file is not None and os.getpid() == self._process:
            _held.discard(self._key)
            os.close(self._file)
            self._file = None


def _key(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


class Shared:
    """A lock on a file that is there, which many may have at once; freed with the object.

    Where the file system knows no locks, nobody ever has it.
    """

    def __init__(self, path: Path):
        self._file: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    __del__ = release


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether nobody has a `Shared` on a file; if so, nobody gets one until the block ends."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # no locks here
            pass
        yield free
    finally:
        os.close(file)
