"""The ledger of what could not be read."""

from __future__ import annotations

import fcntl
import json
import os

from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import append


class Ledger:
    """The bad records of a run, each source once: a file of lines {"source", "reason"}.

    Several processes may add at once, and a resumed run goes on with the file that is there.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._sources: set[str] = set()
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
                if error.source not in self._sources:
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
        return len(self._sources)

    def _catch_up(self, file: int) -> None:
        """Read the whole lines that came since the last time."""
        size = os.fstat(file).st_size
        if size < self._read:  # another file stands there now
            self._sources, self._read = set(), 0
        new = os.pread(file, size - self._read, self._read)
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        for line in new.splitlines():
            try:
                self._sources.add(json.loads(line)["source"])
            except (ValueError, KeyError, TypeError):
                continue  # the torn line
