"""Byte ranges of a file: its lines, or the elements of its JSON arrays, each read alone."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from io import FileIO
from typing import Any, BinaryIO

import numpy as np

from ernie_vil2.data.formats.index import cached
from ernie_vil2.data.formats.json_scan import BOM, json_elements
from ernie_vil2.data.formats.mapped import Build, Column, Write
from ernie_vil2.errors import UserError

_BLOCK = 1 << 20
MAX_ROW_BYTES = 3 << 29  # a picture of MAX_IMAGE_BYTES in base64, and some text


class Spans:
    """Byte ranges of one file, read on demand. Picklable; safe after fork and in threads.

    Args:
        path: the file.
        kind, build: where the ranges lie says `cached([path], kind, build)`.
        name: of the array there that holds them, starts and ends in turn.
        fence: the byte that stands between two ranges and in none, where there is such a one; it
            tells when the file is another than that of the index in a way that no sample has shown.
    """

    def __init__(self, path: str, kind: str, build: Build, name: str, fence: bytes = b""):
        self.path, self._kind, self._build, self._name = path, kind, build, name
        self._fence = fence
        self._opened: tuple[Column, FileIO] | None = None
        self._open()

    def _open(self) -> tuple[Column, FileIO]:
        """The ranges, int64 [N * 2], and the file, opened once in each process."""
        if self._opened is None:
            spans = cached([self.path], self._kind, self._build).column(self._name)
            # unbuffered, and read by pread: no position is shared with a forked process
            self._opened = spans, open(self.path, "rb", buffering=0)  # noqa: SIM115
        return self._opened

    def __del__(self) -> None:
        if getattr(self, "_opened", None):  # not where __init__ has failed
            self._open()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __len__(self) -> int:
        return len(self._open()[0]) // 2

    def read(self, row: int, limit: int | None = None) -> bytes:
        """The bytes of a row from 0, or the first `limit` of them.

        Raises:
            OSError: they cannot be read, or the file is not the one that was indexed.
        """
        spans, file = self._open()
        start, end = map(int, spans[2 * row : 2 * row + 2])
        wanted = end - start if limit is None else min(end - start, limit)
        if wanted > MAX_ROW_BYTES:
            raise OSError(f"a row of {wanted} bytes, at most {MAX_ROW_BYTES} are read")
        before = len(self._fence) * (row > 0)
        behind = len(self._fence) * (wanted == end - start)
        data = os.pread(file.fileno(), before + wanted + behind, start - before)
        if len(data) < before + wanted:
            raise OSError("the file is shorter than when it was opened")
        found = data[before : before + wanted]
        fences = data[:before] + data[before + wanted :]
        if self._fence and (self._fence in found or fences.strip(self._fence)):
            raise OSError("the file is not the one that was indexed: start again")
        return found


def lines(path: str) -> Spans:
    """The lines of a file, without their line feeds and the file's byte order mark."""
    return Spans(path, "lines", _Lines(path), "spans", b"\n")


class _Lines:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, write: Write) -> None:
        with _opened(self.path) as file:
            start = len(BOM) if file.read(len(BOM)) == BOM else 0
            file.seek(start)
            position = start
            for block in iter(lambda: file.read(_BLOCK), b""):
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + position
                if ends.size:
                    starts = np.concatenate([[start], ends[:-1] + 1])
                    write("spans", np.stack([starts, ends], axis=1))
                    start = int(ends[-1]) + 1
                position += len(block)
            write("spans", [start, position] if position > start else [])


def json_arrays(path: str, *names: str) -> list[Spans]:
    """The elements of the named arrays in a JSON file's outermost object, one Spans for each.

    An array that is missing counts as empty.

    Raises:
        UserError: the file is no JSON object.
    """
    build = _JsonArrays(path, names)
    return [Spans(path, "json " + " ".join(names), build, name) for name in names]


class _JsonArrays:
    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = path, names

    def __call__(self, write: Write) -> None:
        spans = {name: array("q") for name in self.names}
        with _opened(self.path) as file:
            try:
                for key, start, end in json_elements(file):
                    if key in spans:
                        spans[key].extend((start, end))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self.path} is no JSON object of arrays: {error}") from error
        for name, numbers in spans.items():
            write(name, np.frombuffer(numbers, np.int64) if numbers else [])


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
