"""An index of a file: where its rows lie, so that any row of any size is read alone.

An index is built in one streaming pass and kept as a file of int64 numbers, beside the data or,
where that cannot be written, in the user's cache folder. It is memory-mapped, and built again when
a file it was made from has another size, time, or content where samples of it are looked at, and
when its numbers do not have the checksums that they were written with (`mapped.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from ernie_vil2.data.formats.mapped import Build, MappedArrays, write_arrays
from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_LOUD_BYTES = 1 << 30  # the index of a larger file takes so long that it is announced
_SAMPLES, _SAMPLE_BYTES = 16, 4096  # of a file; one of up to 64 KiB is looked at whole
_DRAFT = ".draft"
_ABANDONED = 60.0  # seconds after which a draft that no process holds open is removed

State = list[Any]  # of a file: size, time, hash; a list, as JSON gives it back
Arrays = MappedArrays


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


def _mapped(place: str, states: list[State], renew: Callable[[], Arrays]) -> Arrays | None:
    """The arrays kept at `place`, or None where they are missing, damaged or of other files."""
    try:
        return MappedArrays(place, states, renew)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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

    def renew() -> Arrays:
        return cached(paths, kind, build)

    for place in places:
        arrays = _mapped(place, states, renew)
        if arrays is not None:
            return arrays
    if sum(size for size, *_ in states) > _LOUD_BYTES:
        log.info("indexing %s", ", ".join(paths))
    for place in places:
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            _remove_abandoned_drafts(place)
            with _draft(place) as file:
                write_arrays(file, states, build)
                if [_state(path) for path in paths] != states:
                    raise UserError(f"{', '.join(paths)} changed while being read: start again")
        except OSError:  # a full disk: the next place may be on another
            continue
        arrays = _mapped(place, states, renew)
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
