"""Named arrays of numbers in a file, of which no more is read than is asked for.

An index of 10^8 rows has gigabytes. To read it whole at every start, for its checksum, would take
longer the larger the set is; so each block has a checksum of its own, which is looked at before the
first number of that block is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import ArrayLike

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_FORMAT = 3
_HEADER_BYTES = 4096
_BLOCK = 1 << 16  # bytes that have a checksum of their own
_DIGEST = 16  # bytes of a checksum
_NUMBER = 8  # bytes of one
_damaged: set[tuple[int, int, int, int]] = set()  # files in which this process has found damage

Write = Callable[[str, ArrayLike], None]  # name, numbers
Build = Callable[[Write], None]


def write_arrays(file: BinaryIO, states: Any, build: Build) -> None:
    """Write what `build(write)` writes: the header, the numbers, the checksums of their blocks.

    Args:
        states: of what the numbers were made from, as JSON keeps it.
        build: calls write(name, int64 array) as often as it likes, all for one name before the
            next.
    """
    lengths: dict[str, int] = {}
    digests = _Digests()
    file.write(b" " * _HEADER_BYTES)

    def write(name: str, numbers: ArrayLike) -> None:
        assert name not in lengths or name == next(reversed(lengths)), name
        content = np.ascontiguousarray(numbers, np.int64)
        lengths[name] = lengths.get(name, 0) + content.size
        if content.size:
            digests.update(content.data.cast("B"))
            file.write(content.data)

    build(write)
    table = digests.finish()
    file.write(table)
    header = {"format": _FORMAT, "states": states, "lengths": lengths, "checksum": _digest(table)}
    encoded = json.dumps(header).encode()
    assert len(encoded) < _HEADER_BYTES
    file.seek(0)
    file.write(encoded.ljust(_HEADER_BYTES))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST).hexdigest()


def _version(file: BinaryIO | FileIO) -> tuple[int, int, int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


class _Digests:
    """The checksums of the blocks of what comes in pieces."""

    def __init__(self) -> None:
        self._table = bytearray()
        self._hash, self._room = hashlib.blake2b(digest_size=_DIGEST), _BLOCK

    def update(self, data: memoryview) -> None:
        while data:
            part, data = data[: self._room], data[self._room :]
            self._hash.update(part)
            self._room -= len(part)
            if not self._room:
                self._end_block()

    def _end_block(self) -> None:
        self._table += self._hash.digest()
        self._hash, self._room = hashlib.blake2b(digest_size=_DIGEST), _BLOCK

    def finish(self) -> bytes:
        if self._room < _BLOCK:
            self._end_block()
        return bytes(self._table)


class MappedArrays(Mapping[str, Numbers]):
    """The arrays of a file of `write_arrays`; `arrays[name]` is one, memory-mapped.

    `arrays.column(name)` is the same for arrays that grow with the data set: of it only the blocks
    that are used are read and checked. A block that is damaged has the file made anew.

    Args:
        place: of the file.
        states: what it must have been made from; None: whatever it was.
        renew: gives the arrays of a new file; None: all of this one is checked at once.

    Raises:
        ValueError, OSError: it is no such file, or not of these.
    """

    def __init__(
        self, place: str, states: Any, renew: Callable[[], MappedArrays] | None = None
    ) -> None:
        self._place, self._renew = place, renew
        self._file = open(place, "rb", buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        if _version(self._file) in _damaged:
            raise ValueError("damaged")
        header = json.loads(self._file.read(_HEADER_BYTES))
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ValueError("of another format")
        if states not in (None, header["states"]):
            raise ValueError("of other files")
        self._starts: dict[str, tuple[int, int]] = {}  # of each: its first number, how many
        total = 0
        for name, length in header["lengths"].items():
            self._starts[name] = total, length
            total += length
        self._size = _NUMBER * total
        blocks = -(-self._size // _BLOCK)
        self._table = os.pread(
            self._file.fileno(), blocks * _DIGEST + 1, _HEADER_BYTES + self._size
        )
        if len(self._table) != blocks * _DIGEST or _digest(self._table) != header["checksum"]:
            raise ValueError("damaged")
        self._checked = bytearray(blocks)  # 1: that block is known to be whole
        self._maps: dict[str, Numbers] = {}
        if renew is None and not self._is_whole(0, total):
            raise ValueError("damaged")

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, name: str) -> Numbers:
        start, length = self._starts[name]
        self._check(start, start + length)
        if not length:
            return np.zeros(0, np.int64)
        if name not in self._maps:
            offset = _HEADER_BYTES + _NUMBER * start
            self._maps[name] = np.memmap(self._file, np.int64, "r", offset=offset, shape=(length,))
        return self._maps[name]

    def column(self, name: str) -> Column:
        """The numbers of an array, read where they are asked for."""
        return Column(self, name, self._starts[name][1])

    def read(self, name: str, start: int, stop: int) -> Numbers:
        """Numbers `start` to `stop` - 1 of an array, in memory of their own."""
        first = self._starts[name][0]
        self._check(first + start, first + stop)
        return np.frombuffer(self._bytes(first + start, first + stop), np.int64)

    def _bytes(self, start: int, stop: int) -> bytes:
        place = _HEADER_BYTES + _NUMBER * start
        return os.pread(self._file.fileno(), _NUMBER * (stop - start), place)

    def _check(self, start: int, stop: int) -> None:
        """See that the numbers `start` to `stop` - 1 of the file are those that were written."""
        if self._is_whole(start, stop):
            return
        assert self._renew is not None, "checked at once"
        _damaged.add(_version(self._file))
        log.warning("%s is damaged: it is made anew", self._place)
        new = self._renew()
        # which closes its file when it goes
        self.__dict__.update({**new.__dict__, "_renew": self._renew, "_new": new})
        if not self._is_whole(start, stop):
            raise UserError(f"{self._place} is damaged again: does the disk work?")

    def _is_whole(self, start: int, stop: int) -> bool:
        block, end = _NUMBER * start // _BLOCK, -(-_NUMBER * stop // _BLOCK)
        while (block := self._checked.find(0, block, end)) >= 0:
            place = block * _BLOCK
            size = min(_BLOCK, self._size - place)
            data = os.pread(self._file.fileno(), size, _HEADER_BYTES + place)
            digest = hashlib.blake2b(data, digest_size=_DIGEST).digest()
            if digest != self._table[block * _DIGEST : (block + 1) * _DIGEST]:
                return False
            self._checked[block] = 1
        return True


class Column:
    """An array of `MappedArrays` as a sequence: a number, or with a slice an int64 array."""

    def __init__(self, arrays: MappedArrays, name: str, length: int) -> None:
        self._arrays, self._name, self._length = arrays, name, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, key: int) -> int: ...

    @overload
    def __getitem__(self, key: slice) -> Numbers: ...

    def __getitem__(self, key: int | slice) -> int | Numbers:
        if isinstance(key, slice):
            start, stop, step = key.indices(self._length)
            assert step == 1, key
            return self._arrays.read(self._name, start, max(start, stop))
        if not 0 <= key < self._length:
            raise IndexError(key)
        return int(self._arrays.read(self._name, key, key + 1)[0])
