"""Files of which a few are held open."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from ernie_vil2.data.files.local import Files

_LIMIT = 32
_IDLE = 1024  # reads of other files, after which a file is closed: a cache may need its room


class OpenFiles:
    """Reads of `files`, of which those used last stay open. Picklable; safe after fork, in threads.

    Args:
        limit: files that a process holds open.
    """

    def __init__(self, files: Files, limit: int = _LIMIT):
        self._files, self._limit = files, limit
        self._opened: dict[int, _Opened] = {}  # the one used last is the last
        self._reads = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def read(self, number: int, offset: int, count: int) -> bytes:
        """So many bytes of a file, or as many as there are. Raises OSError."""
        # no lock, which a fork could find locked for good: two threads at worst open a file twice
        opened = self._opened.pop(number, None)
        if opened is None:
            opened = _Opened(self._files.open(number))
            for oldest, other in list(self._opened.items()):
                if len(self._opened) >= self._limit or self._reads - other.read > _IDLE:
                    self._opened.pop(oldest, None)
        self._opened[number] = opened
        self._reads += 1
        opened.read = self._reads
        return os.pread(opened.descriptor, count, offset)


class _Opened:
    """An open file, closed when nobody reads it any more."""

    def __init__(self, file: BinaryIO):
        self.read = 0  # when it was read last, counted in reads of all
        with file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self.descriptor)
