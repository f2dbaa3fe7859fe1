"""LMDB folders, opened once in each process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ernie_vil2.data.formats import rows
from ernie_vil2.data.packages import needed
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError

_DIGITS = 18  # of a count
# path -> (process, state of the file, environment): LMDB refuses to open one twice in a process
_environments: dict[str, tuple[int, tuple[int, ...], Any]] = {}


class Database:
    """An LMDB folder, read only. Picklable; opened once in each process that reads it.

    Args:
        path: the folder, which holds data.mdb.
        count: the key under which its builder wrote, at the end, how many rows there are.

    Attributes:
        path: the folder.
        file: the file in it.
        count: the number under that key.

    Raises:
        UserError: it is no LMDB, or not whole.
    """

    def __init__(self, path: str, count: bytes):
        self.path, self.file = path, rows.file(os.path.join(path, "data.mdb"))
        self._real = os.path.realpath(path)
        found = self.get(count)
        if found is None or not found.isdigit() or len(found) > _DIGITS:
            raise UserError(
                f'{path} has no number under the key "{count.decode()}", which is written last by '
                "Chinese-CLIP's build_lmdb_dataset.py: build it again"
            )
        self.count = int(found)

    def __len__(self) -> int:
        """All keys."""
        return int(self._opened().stat()["entries"])

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where it has none."""
        with self._told(), self._opened().begin() as transaction:
            value: bytes | None = transaction.get(key)
        return value

    def read(self, key: bytes, source: str) -> bytes:
        """The value of a key that `source` names. Raises BadRecord."""
        try:
            value = self.get(key)
        except UserError as error:
            raise BadRecord(source, str(error)) from error
        if value is None:
            raise BadRecord(source, "the key is missing")
        return value

    def all_keys(self) -> Iterator[bytes]:
        """All keys, in the order of their bytes."""
        with self._told(), self._opened().begin() as transaction:
            yield from transaction.cursor().iternext(keys=True, values=False)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What may go wrong, in one line."""
        try:
            yield
        except needed("lmdb", "data set format lmdb").Error as error:
            reason = str(error).replace(f"{self._real}: ", "")
            raise UserError(f"{self.file} is damaged or no LMDB: {reason}") from error
        except OSError as error:
            raise UserError(f"cannot read {self.file}: {error.strerror}") from error

    def _opened(self) -> Any:
        process, state, environment = _environments.get(self._real, (0, (), None))
        with self._told():
            stat = os.stat(self.file)
            now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if process == os.getpid() and state == now:
                return environment
            if environment is not None:  # a parent's, or of what stood there before
                del _environments[self._real]
                environment.close()
            # lock=False: nobody writes, and the folder may be one that cannot be written
            environment = needed("lmdb", "data set format lmdb").open(
                self._real, readonly=True, create=False, lock=False, readahead=False, meminit=False
            )
            size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if stat.st_size < size:  # to read what is not there would end the process
            environment.close()
            raise UserError(
                f"{self.file} has {stat.st_size} bytes, of {size} that it says: copy it again"
            )
        _environments[self._real] = os.getpid(), now, environment
        return environment
