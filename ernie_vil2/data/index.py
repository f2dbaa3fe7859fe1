"""Where the rows of a file lie, so that any row of any size is read alone.

An index is built in one streaming pass and kept as a file of int64 numbers, beside the data or,
where that cannot be written, in the user's cache folder. It is memory-mapped, and built again when
a file it was made from has another size or time.
"""

import hashlib
import json
import logging
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ernie_vil2.data.json_scan import BOM, json_elements
from ernie_vil2.errors import UserError

log = logging.getLogger(__name__)
_FORMAT = 1
_HEADER_BYTES = 4096
_BLOCK = 1 << 20
_LOUD_BYTES = 1 << 30  # a file above this takes long enough to be announced


def _state(path: str) -> list:
    """What changes when a file does."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return [stat.st_size, stat.st_mtime_ns]


def _places(paths: Sequence, kind: str) -> list:
    """Where the index may lie, the best place first."""

    def name(parts) -> str:
        digest = hashlib.blake2b("\0".join([kind, *parts]).encode(errors="surrogateescape"))
        return f".{os.path.basename(paths[0])[:100]}.{digest.hexdigest()[:16]}.index"

    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.dirname(os.path.abspath(paths[0]))
    beside = name([os.path.relpath(path, folder) for path in paths])
    private = name([os.path.realpath(path) for path in paths])
    return [os.path.join(folder, beside), os.path.join(home, "ernie_vil2", private)]


def _mapped(place: str, states: list):
    """The arrays kept at `place`, or None where they are missing, damaged or of other files."""
    try:
        with open(place, "rb") as file:
            header = json.loads(file.read(_HEADER_BYTES))
        if header["format"] != _FORMAT or header["states"] != states:
            return None
        total = sum(header["lengths"].values())
        if os.path.getsize(place) != _HEADER_BYTES + 8 * total:
            return None
        numbers = np.zeros(0, np.int64)
        if total:
            numbers = np.memmap(place, np.int64, "r", offset=_HEADER_BYTES, shape=(total,))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    arrays, start = {}, 0
    for key, length in header["lengths"].items():
        arrays[key] = numbers[start : start + length]
        start += length
    return arrays


def cached(paths: Sequence, kind: str, build: Callable) -> dict:
    """Named int64 arrays made from `paths`, memory-mapped from their index file.

    build(write) is called where there is no valid index; it calls write(name, int64 array), as
    often as it likes, all for one name before the next. kind: what tells this index from others
    of the same files. Several processes may build at once: each index appears whole. Raises
    UserError where a file cannot be read or no index can be written.
    """
    states = [_state(path) for path in paths]
    places = _places(paths, kind)
    for place in places:
        arrays = _mapped(place, states)
        if arrays is not None:
            return arrays
    if sum(size for size, _ in states) > _LOUD_BYTES:
        log.info("indexing %s", ", ".join(paths))
    for place in places:
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(place))
        except OSError:
            continue
        try:
            with open(handle, "wb") as file:
                _write(file, states, build)
            if [_state(path) for path in paths] != states:
                raise UserError(f"{', '.join(paths)} changed while being read: start again")
            os.chmod(temporary, 0o644)  # mkstemp's is for its owner alone
            os.replace(temporary, place)
        except BaseException as error:
            os.unlink(temporary)
            if isinstance(error, OSError):  # a full disk: the next place may be on another
                continue
            raise
        arrays = _mapped(place, states)
        assert arrays is not None, place
        return arrays
    raise UserError(
        f"cannot write an index of {paths[0]} beside it or in {os.path.dirname(places[-1])}: "
        "set XDG_CACHE_HOME to a folder with room"
    )


def _write(file, states: list, build: Callable) -> None:
    lengths = {}
    file.write(b" " * _HEADER_BYTES)

    def write(name: str, numbers) -> None:
        assert name not in lengths or name == next(reversed(lengths)), name
        numbers = np.ascontiguousarray(numbers, np.int64)
        lengths[name] = lengths.get(name, 0) + numbers.size
        file.write(numbers.tobytes())

    build(write)
    header = json.dumps({"format": _FORMAT, "states": states, "lengths": lengths}).encode()
    assert len(header) < _HEADER_BYTES
    file.seek(0)
    file.write(header.ljust(_HEADER_BYTES))


class Spans:
    """Byte ranges of one file, read on demand. Picklable; safe after fork and in threads.

    Where they lie is the array `name`, starts and ends in turn, of `cached([path], kind, build)`.
    """

    def __init__(self, path: str, kind: str, build: Callable, name: str):
        self.path, self._kind, self._build, self._name = path, kind, build, name
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

    def read(self, row: int, limit: int = (1 << 31) - (1 << 13)) -> bytes:
        """The bytes of a row from 0, or the first `limit` of them. Raises OSError."""
        if self._spans is None:
            self._open()
        start, end = map(int, self._spans[row])
        wanted = min(end - start, limit)
        data = os.pread(self._file.fileno(), wanted, start)
        if len(data) < wanted:
            raise OSError("the file is shorter than when it was opened")
        return data


def lines(path: str) -> Spans:
    """The lines of a file, without their line feeds and the file's byte order mark."""
    return Spans(path, "lines", _Lines(path), "spans")


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


def join(image_ids: Iterable, text_ids: Iterable) -> dict:
    """Which texts belong to which image.

    image_ids: (row, id), in order of row; text_ids: (row, ids of its images). Holds numbers only.
    Returns "images" int64 [N], rows of the images with text; "starts" int64 [N + 1] and "texts":
    the text rows of image n are texts[starts[n] : starts[n + 1]]; "every_image", rows of all images
    but repeated ones; "unknown", rows of the texts that name an image which is not there; and
    "counts": images without text, repeated images, texts of unknown images.
    """
    keys, rows = array("q"), array("q")
    for row, image_id in image_ids:
        keys.append(_key(image_id))
        rows.append(row)
    wanted, texts = array("q"), array("q")
    for row, ids in text_ids:
        for image_id in dict.fromkeys(ids):
            wanted.append(_key(image_id))
            texts.append(row)
    keys, rows = np.array(keys, np.int64), np.array(rows, np.int64)
    wanted, texts = np.array(wanted, np.int64), np.array(texts, np.int64)
    keys, first = np.unique(keys, return_index=True)  # of a repeated image, the first row
    found = np.isin(wanted, keys)
    pair_rows = rows[first[np.searchsorted(keys, wanted[found])]]
    order = np.argsort(pair_rows, kind="stable")
    images, starts = np.unique(pair_rows[order], return_index=True)
    unknown = np.unique(texts[~found])
    return {
        "images": images,
        "starts": np.append(starts, len(order)),
        "texts": texts[found][order],
        "every_image": np.sort(rows[first]),
        "unknown": unknown,
        "counts": np.array([len(keys) - len(images), len(rows) - len(keys), len(unknown)]),
    }


def _key(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
