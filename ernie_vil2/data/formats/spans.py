"""Byte ranges of a file: its lines, or the elements of its JSON arrays, each read alone."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence

import numpy as np

from ernie_vil2.data.formats.index import cached
from ernie_vil2.data.formats.json_scan import BOM, json_elements
from ernie_vil2.errors import UserError

_BLOCK = 1 << 20
MAX_ROW_BYTES = 3 << 29  # a picture of MAX_IMAGE_BYTES in base64, and some text


class Spans:
    """Byte ranges of one file, read on demand. Picklable; safe after fork and in threads.

    Where they lie is the array `name`, starts and ends in turn, of `cached([path], kind, build)`.
    fence: the byte that stands between two ranges and in none, where that is so; it tells when the
    file is another than that of the index in a way that no sample has shown.
    """

    def __init__(self, path: str, kind: str, build: Callable, name: str, fence: bytes = b""):
        self.path, self._kind, self._build, self._name = path, kind, build, name
        self._fence = fence
        self._file, self._spans = None, None
        self._open()

    def _open(self) -> None:
        self._spans = cached([self.path], self._kind, self._build)[self._name].reshape(-1, 2)
        # unbuffered, and read by pread: no position is shared with a forked process
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115

    def __del__(self):
        if getattr(self, "_file", None):
            self._file.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None, "_spans": None}

    def __len__(self) -> int:
        if self._spans is None:
            self._open()
        return len(self._spans)

    def read(self, row: int, limit: int | None = None) -> bytes:
        """The bytes of a row from 0, or the first `limit` of them. Raises OSError."""
        if self._spans is None:
            self._open()
        start, end = map(int, self._spans[row])
        wanted = end - start if limit is None else min(end - start, limit)
        if wanted > MAX_ROW_BYTES:
            raise OSError(f"a row of {wanted} bytes, at most {MAX_ROW_BYTES} are read")
        before = len(self._fence) * (row > 0)
        behind = len(self._fence) * (wanted == end - start)
        data = os.pread(self._file.fileno(), before + wanted + behind, start - before)
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
    def __init__(self, path: str):
        self.path = path

    def __call__(self, write: Callable) -> None:
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


def json_arrays(path: str, *names: str) -> list:
    """The elements of the named arrays in a JSON file's outermost object, one Spans for each.

    An array that is missing counts as empty. Raises UserError where the file is no JSON object.
    """
    build = _JsonArrays(path, names)
    return [Spans(path, "json " + " ".join(names), build, name) for name in names]


class _JsonArrays:
    def __init__(self, path: str, names: Sequence):
        self.path, self.names = path, names

    def __call__(self, write: Callable) -> None:
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


def _opened(path: str):
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
