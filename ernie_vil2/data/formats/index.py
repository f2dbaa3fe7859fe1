"""An index of a file: where its rows lie, so that any row of any size is read alone.

An index is built in one streaming pass and kept as a file of int64 numbers, beside the data or,
where that cannot be written, in the user's cache folder. It is memory-mapped, and built again when
a file it was made from has another size, time, or content where samples of it are looked at, and
when its numbers do not have the checksum that they were written with.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_FORMAT = 2
_HEADER_BYTES = 4096
_BLOCK = 1 << 20
_LOUD_BYTES = 1 << 30  # the index of a larger file takes so long that it is announced
_SAMPLES, _SAMPLE_BYTES = 16, 4096  # of a file; one of up to 64 KiB is looked at whole
_DRAFT = ".draft"
_ABANDONED = 60.0  # seconds after which a draft that no process holds open is removed
_verified: set[tuple[str, int, int, int]] = set()  # index files that this process has found whole

State = list[Any]  # of a file: size, time, hash; a list, as JSON gives it back
Arrays = dict[str, Numbers]
Write = Callable[[str, ArrayLike], None]  # name, numbers
Build = Callable[[Write], None]


def _state(path: str) -> State:
    """What changes when a file does: its size, its time, and a hash of samples of its content."""
    try:
        with open(path, "rb", buffering=0) as file:
            stat = os.fstat(file.fileno())
            step = max(_SAMPLE_BYTES, (stat.st_size - _SAMPLE_BYTES) / (_SAMPLES - 1))
            digest = hashlib.blake2b(digest_size=16)
            for number in range(_SAMPLES):
                digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, int(number * step)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


def _places(paths: Sequence[str], kind: str) -> list[str]:
    """Where the index may lie, the best place first."""

    def name(parts: Sequence[str]) -> str:
        digest = hashlib.blake2b("\0".join([kind, *parts]).encode(errors="surrogateescape"))
        return f".{os.path.basename(paths[0])[:100]}.{digest.hexdigest()[:16]}.index"

    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.dirname(os.path.abspath(paths[0]))
    beside = name([os.path.relpath(path, folder) for path in paths])
    private = name([os.path.realpath(path) for path in paths])
    return [os.path.join(folder, beside), os.path.join(home, "ernie_vil2", private)]


def _mapped(place: str, states: list[State]) -> Arrays | None:
    """The arrays kept at `place`, or None where they are missing, damaged or of other files."""
    try:
        with open(place, "rb") as file:
            header = json.loads(file.read(_HEADER_BYTES))
        if header["format"] != _FORMAT or header["states"] != states:
            return None
        total = sum(header["lengths"].values())
        if os.path.getsize(place) != _HEADER_BYTES + 8 * total or not _is_whole(place, header):
            return None
        numbers: Numbers = np.zeros(0, np.int64)
        if total:
            numbers = np.memmap(place, np.int64, "r", offset=_HEADER_BYTES, shape=(total,))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    arrays, start = {}, 0
    for key, length in header["lengths"].items():
        arrays[key] = numbers[start : start + length]
        start += length
    return arrays


def _is_whole(place: str, header: Mapping[str, Any]) -> bool:
    """Whether the numbers are those that were written; looked at once by a process."""
    stat = os.stat(place)
    version = (place, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if version not in _verified:
        digest = hashlib.blake2b(digest_size=16)
        with open(place, "rb", buffering=0) as file:
            file.seek(_HEADER_BYTES)
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != header["checksum"]:
            return False
        _verified.add(version)
    return True


def cached(paths: Sequence[str], kind: str, build: Build) -> Arrays:
    """Named int64 arrays made from `paths`, memory-mapped from their index file.

    Several processes may build at once: each index appears whole.

    Args:
        kind: what tells this index from others of the same files.
        build: called as build(write) where there is no valid index; it calls write(name, int64
            array) as often as it likes, all for one name before the next.

    Raises:
        UserError: a file cannot be read, or no index can be written.
    """
    states = [_state(path) for path in paths]
    places = _places(paths, kind)
    for place in places:
        arrays = _mapped(place, states)
        if arrays is not None:
            return arrays
    if sum(size for size, *_ in states) > _LOUD_BYTES:
        log.info("indexing %s", ", ".join(paths))
    for place in places:
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            _remove_abandoned_drafts(place)
            with _draft(place) as file:
                _write(file, states, build)
                if [_state(path) for path in paths] != states:
                    raise UserError(f"{', '.join(paths)} changed while being read: start again")
        except OSError:  # a full disk: the next place may be on another
            continue
        arrays = _mapped(place, states)
        assert arrays is not None, place
        return arrays
    raise UserError(
        f"cannot write an index of {paths[0]} beside it or in {os.path.dirname(places[-1])}: "
        "set XDG_CACHE_HOME to a folder with room"
    )


@contextlib.contextmanager
def _draft(place: str) -> Iterator[BinaryIO]:
    """A file to write that takes its place at the end, whole, or else leaves nothing.

    Its name begins with a dot as the index's own does, so that no "folder/*" takes it for data if
    this process is killed; the lock tells that it is not.
    """
    folder, name = os.path.split(place)
    handle, path = tempfile.mkstemp(_DRAFT, f"{name}.", folder)
    try:
        with open(handle, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            os.chmod(path, 0o644)  # mkstemp's is for its owner alone
            file.flush()
            os.replace(path, place)
    except BaseException:
        os.unlink(path)
        raise


def _remove_abandoned_drafts(place: str) -> None:
    """Those that killed processes have left for the index at `place`."""
    for path in glob.glob(f"{glob.escape(place)}.*{_DRAFT}"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: it is being written
            if time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED:
                os.unlink(path)


def _write(file: BinaryIO, states: list[State], build: Build) -> None:
    lengths: dict[str, int] = {}
    digest = hashlib.blake2b(digest_size=16)
    file.write(b" " * _HEADER_BYTES)

    def write(name: str, numbers: ArrayLike) -> None:
        assert name not in lengths or name == next(reversed(lengths)), name
        content = np.ascontiguousarray(numbers, np.int64)
        lengths[name] = lengths.get(name, 0) + content.size
        digest.update(content.data)
        file.write(content.data)

    build(write)
    header = {"format": _FORMAT, "states": states, "lengths": lengths}
    encoded = json.dumps({**header, "checksum": digest.hexdigest()}).encode()
    assert len(encoded) < _HEADER_BYTES
    file.seek(0)
    file.write(encoded.ljust(_HEADER_BYTES))
