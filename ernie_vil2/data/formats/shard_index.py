"""The index of a set of tar shards, which says where each record lies.

It is made once, by one process of a machine, which scans the shards in parallel, and is kept
beside them or in the user's cache folder. Where PREPARED lies beside the shards, as the jobs that
write shards leave it, what it says of a shard of the same name and size is taken from there, and
the shard is not read.

Arrays of an index, all int64, of S shards with N records:

- "names" [S]: `keys.key` of each shard's base name; "sizes" [S]: its bytes.
- "ends" [S]: the number of records up to the end of each shard.
- "offsets" [N + S]: record n, of shard s, lies there from offsets[n + s] to offsets[n + s + 1].
- "faults" [F, 2], flat: (record, why it is none: one of `shard_scan.FAULTS`), by record.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.files.build import open_files
from ernie_vil2.data.files.local import Files, LocalFiles
from ernie_vil2.data.files.systems import is_url
from ernie_vil2.data.formats import index, tar
from ernie_vil2.data.formats.index import Arrays
from ernie_vil2.data.formats.mapped import Write
from ernie_vil2.data.formats.shard_scan import scan
from ernie_vil2.data.keys import key
from ernie_vil2.data.workers import WorkerPool
from ernie_vil2.errors import UserError
from ernie_vil2.files.user_cache import user_cache
from ernie_vil2.runtime import usable_cores

log = logging.getLogger("ernie_vil2")
PREPARED = "shards.index"
_ARRAYS = {"names", "sizes", "ends", "offsets", "faults"}
_KIND = "shards 1"
_IN_PARALLEL = 1 << 28  # bytes to scan, above which it is worth to start processes
_SCANNERS = 16  # of them at most
_WINDOW = 1 << 16  # bytes read at a time while scanning
_SAID = 30.0  # seconds between two lines about how far it has come

_Shard = tuple[Numbers, Numbers]  # offsets and faults, as `scan` gives them


def shard_index(files: Files) -> Arrays:
    """The index of `files`, from where it is kept, else made.

    Raises:
        UserError: a shard cannot be read, or the index can be written nowhere.
    """
    names = files.names
    what = f"{names[0]} and {len(names) - 1} more shards" if names[1:] else names[0]

    def build(write: Write) -> None:
        prepared = _Prepared(files)
        known = [prepared.find(number) for number in range(len(names))]
        scanned = _scanned(files, [n for n, shard in enumerate(known) if shard is None])
        with contextlib.closing(scanned):
            shards = (next(scanned) if shard is None else shard for shard in known)
            _write(files, shards, write)

    return index.kept(_places(names), what, lambda: _states(files), build, one_builder=True)


def write_prepared(paths: Sequence[str], folder: str) -> None:
    """Write PREPARED of the local shards `paths`, which lie in `folder`, into it.

    Raises:
        UserError: a shard cannot be read. OSError: it cannot be written.
    """
    files = LocalFiles(paths)
    index.write_index(
        os.path.join(folder, PREPARED),
        [],
        lambda write: _write(files, _scanned(files, range(len(paths))), write),
    )


def _places(names: Sequence[str]) -> list[str]:
    """Where the index may lie, the best place first: beside shards only if they are local."""
    real: dict[str, str] = {}  # of each folder: asking for each shard's takes long

    def absolute(name: str) -> str:
        folder, base = os.path.split(name)
        if folder not in real:
            real[folder] = folder if is_url(name) else os.path.realpath(folder)
        return os.path.join(real[folder], base)

    private = index.index_name(_KIND, list(map(absolute, names)), names[0])
    places = [os.path.join(user_cache(), private)]
    if not any(map(is_url, names)):
        folder = os.path.dirname(os.path.abspath(names[0]))
        relative = [os.path.relpath(name, folder) for name in names]
        places.insert(0, os.path.join(folder, index.index_name(_KIND, relative, names[0])))
    return places


def _states(files: Files) -> list[index.State]:
    """Of a set: bytes, files, and a hash of what is known of each file without reading it."""
    digest = hashlib.blake2b(digest_size=16)
    sizes = [files.size(number) for number in range(len(files.names))]
    for number, size in enumerate(sizes):
        digest.update(f"{size} {files.version(number)}\0".encode())
    return [[sum(sizes), len(sizes), digest.hexdigest()]]


# -- Making it -------------------------------------------------------------------------------------


class _Prepared:
    """What the PREPARED of the folders of `files` say of them."""

    def __init__(self, files: Files):
        self._files = files
        self._indexes: dict[str, Mapping[str, Numbers]] = {}  # by folder
        self._places: dict[tuple[str, int, int], int] = {}  # (folder, name, size) -> shard there

    def find(self, number: int) -> _Shard | None:
        """Offsets and faults of shard `number`, or None where they are not known."""
        folder, base = os.path.split(self._files.names[number])
        if folder not in self._indexes:
            self._load(folder)
        arrays = self._indexes[folder]
        shard = self._places.get((folder, _key(base), self._files.size(number)))
        if shard is None:
            return None
        first, end = int(arrays["ends"][shard - 1]) if shard else 0, int(arrays["ends"][shard])
        faults = arrays["faults"].reshape(-1, 2)
        low, high = np.searchsorted(faults[:, 0], [first, end])
        return arrays["offsets"][first + shard : end + shard + 1], faults[low:high] - [first, 0]

    def _load(self, folder: str) -> None:
        arrays = _prepared(os.path.join(folder, PREPARED))
        self._indexes[folder] = arrays
        if arrays:
            for shard, (name, size) in enumerate(zip(arrays["names"], arrays["sizes"])):
                self._places[folder, int(name), int(size)] = shard


def _prepared(name: str) -> Mapping[str, Numbers]:
    """The arrays of a PREPARED, none where it is missing or damaged."""
    try:
        if not is_url(name):
            arrays = index.mapped(name, None)
        else:
            with open_files(name).open(0) as file:
                # by its descriptor, as a cache may have moved it since it was opened
                arrays = index.mapped(f"/proc/self/fd/{file.fileno()}", None)
        if arrays is not None and arrays.keys() >= _ARRAYS:
            return {array: arrays[array] for array in _ARRAYS}
    except (OSError, UserError) as error:
        log.info("the shards are scanned: %s", error)
    return {}


def _key(base: str) -> int:
    return key(base.encode(errors="backslashreplace").decode())  # a name may be no UTF-8


def _write(files: Files, shards: Iterator[_Shard], write: Write) -> None:
    ends, faults = [0], []
    for offsets, wrong in shards:
        write("offsets", offsets)
        faults.append(wrong + np.array([ends[-1], 0]))
        ends.append(ends[-1] + len(offsets) - 1)
    write("names", [_key(os.path.basename(name)) for name in files.names])
    write("sizes", [files.size(number) for number in range(len(files.names))])
    write("ends", ends[1:])
    write("faults", np.concatenate(faults).ravel())


def _scanned(files: Files, numbers: Sequence[int]) -> Generator[_Shard, None, None]:
    """What `scan` finds in the shards of these numbers, by processes where there is much."""

    def task(place: int) -> dict[str, Any]:
        offsets, faults = _scan(files, numbers[place])
        # as bytes through the pipe: how many they are cannot be known before
        return {"offsets": offsets.tobytes(), "faults": faults.tobytes()}

    total = sum(map(files.size, numbers))
    workers = min(len(numbers), usable_cores(), _SCANNERS)
    if total < _IN_PARALLEL or workers < 2 or multiprocessing.current_process().daemon:
        yield from (_scan(files, number) for number in numbers)
        return
    log.info("indexing %d shards, %.1f GB, by %d processes", len(numbers), total / 1e9, workers)
    said = time.monotonic()
    pool = WorkerPool(task, len(numbers), workers, tar.BLOCK, threading.Event())
    with contextlib.closing(pool):
        for done, result in enumerate(pool, start=1):
            yield (
                np.frombuffer(result["offsets"], np.int64),
                np.frombuffer(result["faults"], np.int64).reshape(-1, 2),
            )
            if time.monotonic() - said > _SAID:
                log.info("indexed %d of %d shards", done, len(numbers))
                said = time.monotonic()


def _scan(files: Files, number: int) -> _Shard:
    size = files.size(number)
    try:
        with files.open(number) as file:
            return scan(_windowed(file), size)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read {files.names[number]}: {reason}") from error


def _windowed(file: BinaryIO) -> tar.Read:
    """Reads of a file by windows, as most of its members are smaller than one."""
    start, window = 0, b""

    def read(offset: int, count: int) -> bytes:
        nonlocal start, window
        if not start <= offset <= offset + count <= start + len(window):
            start, window = offset, os.pread(file.fileno(), max(count, _WINDOW), offset)
        return window[offset - start : offset - start + count]

    return read
