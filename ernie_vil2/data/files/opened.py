"""Files of which a few are held open."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from ernie_vil2.data.files.local import Files

_LIMIT = 32


class OpenFiles:
    """Reads of `files`, of which those used last stay open. Picklable; safe after fork, in threads.

    Args:
        limit: files that a process holds open.
    """

    def __init__(self, files: Files, limit: int = _LIMIT):
        self._files, self._limit = files, limit
        self._opened: dict[int, _Opened] = {}  # the one used last is the last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def read(self, number: int, offset: int, count: int) -> bytes:
        """So many bytes of a file, or as many as there are. Raises OSError."""
        # no lock, which a fork could find locked for good: two threads at worst open a file twice
        opened = self._opened.pop(number, None) or _Opened(self._files.open(number))
        self._opened[number] = opened
        for oldest in list(self._opened)[: -self._limit]:
            self._opened.pop(oldest, None)
        return os.pread(opened.descriptor, count, offset)


class _Opened:
    """An open file, closed when nobody reads it any more."""

    def __init__(self, file: BinaryIO):
        with file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self.descriptor)
