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

from ernie_vil2.data.formats.mapped import Build, MappedArrays, Write, write_arrays
from ernie_vil2.errors import UserError
from ernie_vil2.files.user_cache import user_cache

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
    """Where the index of local files may lie, the best place first."""
    folder = os.path.dirname(os.path.abspath(paths[0]))
    beside = index_name(kind, [os.path.relpath(path, folder) for path in paths], paths[0])
    private = index_name(kind, [os.path.realpath(path) for path in paths], paths[0])
    return [os.path.join(folder, beside), os.path.join(user_cache(), private)]


def index_name(kind: str, parts: Sequence[str], first: str) -> str:
    """The name of the index file of what `parts` name, of which `first` is shown to people."""
    digest = hashlib.blake2b("\0".join([kind, *parts]).encode(errors="surrogateescape"))
    return f".{os.path.basename(first)[:100]}.{digest.hexdigest()[:16]}.index"


def mapped(
    place: str, states: list[State] | None, renew: Callable[[], Arrays] | None = None
) -> Arrays | None:
    """The arrays kept at `place`, or None where they are missing, damaged or of other files.

    Args:
        states: of the files that they must be of; None: whatever they are of.
        renew: makes them anew where damage is found later; None: all is looked at now.
    """
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

    def states() -> list[State]:
        return [_state(path) for path in paths]

    def announced(write: Write) -> None:
        if sum(map(os.path.getsize, paths)) > _LOUD_BYTES:
            log.info("indexing %s", ", ".join(paths))
        build(write)

    return kept(_places(paths, kind), ", ".join(paths), states, announced)


def kept(
    places: Sequence[str],
    what: str,
    states: Callable[[], list[State]],
    build: Build,
    one_builder: bool = False,
) -> Arrays:
    """Named int64 arrays, memory-mapped from the index file that is kept at one of `places`.

    Args:
        places: the best one first; the last is in the user's cache folder.
        what: the index is of, for people.
        states: gives what changes when the index is no longer true; short.
        build: as in `cached`.
        one_builder: while one process of this machine builds, others wait for its index.

    Raises:
        UserError: of `build`, or no index can be written.
    """
    before = states()

    def renew() -> Arrays:
        return kept(places, what, states, build, one_builder)

    for place in places:
        arrays = mapped(place, before, renew)
        if arrays is not None:
            return arrays

    def checked(write: Write) -> None:
        build(write)
        if states() != before:
            raise UserError(f"{what} changed while being read: start again")

    for place in places:
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with _locked(place) if one_builder else contextlib.nullcontext():
                arrays = mapped(place, before, renew) if one_builder else None
                if arrays is None:
                    write_index(place, before, checked)
        except OSError:  # a full disk: the next place may be on another
            continue
        arrays = mapped(place, before, renew)
        assert arrays is not None, place
        return arrays
    raise UserError(
        f"cannot write an index of {what} beside it or in {os.path.dirname(places[-1])}: "
        "set XDG_CACHE_HOME to a folder with room"
    )


def write_index(place: str, states: list[State], build: Build) -> None:
    """Write an index file, whole or not at all. Raises OSError."""
    _remove_abandoned_drafts(place)
    with _draft(place) as file:
        write_arrays(file, states, build)


@contextlib.contextmanager
def _locked(place: str) -> Iterator[None]:
    """Only one process of this machine at a time is within, for an index at `place`."""
    path = f"{place}.lock"
    while True:
        file = open(path, "wb")  # noqa: SIM115
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()  # whoever had the lock has removed the file: it locks nothing any more
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        file.close()


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
