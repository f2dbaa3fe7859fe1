"""The files that a reader of whole files is given, wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import BinaryIO, Protocol

from ernie_vil2.errors import UserError


class Files(Protocol):
    """A numbered list of files, each opened when it is needed. Picklable; safe after fork."""

    @property
    def names(self) -> Sequence[str]:
        """As people know them: paths or URLs."""
        ...

    def size(self, number: int) -> int:
        """Bytes of a file. Raises UserError where there is none."""
        ...

    def version(self, number: int) -> str:
        """What changes when the file becomes another of the same size: its time, or a store's tag.

        "" where nothing is known.
        """
        ...

    def open(self, number: int) -> BinaryIO:
        """A local file with these bytes, unbuffered, to be read by pread. Raises OSError."""
        ...

    def ahead(self, numbers: Iterable[int]) -> None:
        """Hear that these files, the most urgent first, will be opened soon."""
        ...


class LocalFiles:
    """Files of this machine's file system."""

    def __init__(self, paths: Sequence[str]):
        self.names: Sequence[str] = list(paths)

    def _stat(self, number: int) -> os.stat_result:
        try:
            return os.stat(self.names[number])
        except OSError as error:
            raise UserError(f"cannot read {self.names[number]}: {error.strerror}") from error

    def size(self, number: int) -> int:
        return self._stat(number).st_size

    def version(self, number: int) -> str:
        return str(self._stat(number).st_mtime_ns)

    def open(self, number: int) -> BinaryIO:
        return open(self.names[number], "rb", buffering=0)

    def ahead(self, numbers: Iterable[int]) -> None:
        """Nothing: they are here."""
