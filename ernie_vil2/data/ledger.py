"""The ledger of what could not be read."""

from __future__ import annotations

import fcntl
import json
import os

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.keys import key
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import append

_BLOCK = 1 << 20


class Ledger:
    """The bad records of a run, each source once: a file of lines {"source", "reason"}.

    Several processes may add at once, and a resumed run goes on with the file that is there.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._seen = _Keys()  # of sources
        self._read = 0

    def add(self, error: BadRecord) -> None:
        """Write `error` down unless its source is there.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # released by close
                self._catch_up(file)
                if key(error.source) not in self._seen:
                    line = json.dumps({"source": error.source, "reason": error.reason}) + "\n"
                    torn = os.fstat(file).st_size > self._read  # a writer died within its line
                    append(file, (b"\n" if torn else b"") + line.encode())
            finally:
                os.close(file)
        except OSError as failure:
            raise UserError(f"cannot write {self.path}: {failure.strerror}") from failure

    @property
    def count(self) -> int:
        """How many bad records are known so far, those of all processes included."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return 0
        try:
            self._catch_up(file)
        finally:
            os.close(file)
        return len(self._seen)

    def _catch_up(self, file: int) -> None:
        """Read the whole lines that came since the last time."""
        size = os.fstat(file).st_size
        if size < self._read:  # another file stands there now
            self._seen, self._read = _Keys(), 0
        rest = b""
        for start in range(self._read, size, _BLOCK):
            *lines, rest = (rest + os.pread(file, min(_BLOCK, size - start), start)).split(b"\n")
            self._read += sum(len(line) + 1 for line in lines)
            for line in lines:
                try:
                    self._seen.add(key(json.loads(line)["source"]))
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue  # the torn line


class _Keys:
    """A set of 64-bit numbers that takes little more than these: every worker has its own."""

    def __init__(self) -> None:
        self._sorted: Numbers = np.zeros(0, np.int64)
        self._new: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._new)

    def __contains__(self, number: int) -> bool:
        place = int(np.searchsorted(self._sorted, number))
        return number in self._new or bool((self._sorted[place : place + 1] == number).any())

    def add(self, number: int) -> None:
        if number in self:
            return
        self._new.add(number)
        if len(self._new) > max(1000, len(self._sorted) // 8):
            self._sorted = np.sort(np.append(self._sorted, list(self._new)))
            self._new = set()
