"""A collection of pictures: what is kept of each, and the small interface behind which it lies.

Two stores have it: LanceDB in a folder of this machine, and Milvus for more than one machine holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

from ernie_vil2.data.arrays import Floats


@dataclass(frozen=True)
class Picture:
    """What is kept of a picture beside its vector.

    Attributes:
        id: 20 hexadecimal digits of its path's SHA-256 (`picture_id`): by it servers name a file,
            never by its path.
        path: absolute, with "/"; UTF-8.
        sha256: of the file, in hexadecimal digits.
        size, mtime_ns: of the file when it was read: bytes, and nanoseconds since 1970.
        taken: seconds since 1970, UTC: when its EXIF says it was taken, else when the file changed.
        width, height: pixels, as it is seen (after EXIF's orientation).
        dhash: its difference hash, 64 bits as a signed number.
        tags: words that it can be filtered by, in no order.
    """

    id: str
    path: str
    sha256: str
    size: int
    mtime_ns: int
    taken: int
    width: int
    height: int
    dhash: int
    tags: tuple[str, ...] = ()


COLUMNS = [field.name for field in fields(Picture)]  # "tags" is the last


@dataclass(frozen=True)
class Filter:
    """Which pictures are asked for: those for which all holds that is not None or empty.

    Attributes:
        folder: absolute; the pictures in it and in the folders below.
        after, before: seconds since 1970, UTC: `after <= taken < before`.
        tags: each of these.
    """

    folder: str | None = None
    after: int | None = None
    before: int | None = None
    tags: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Filter()


EVERYTHING = Filter()


class Hit(NamedTuple):
    """A picture found. cosine: with the query, -1 to 1."""

    picture: Picture
    cosine: float


class Collection(Protocol):
    """Pictures with one vector each, found by cosine.

    What `add` and `delete` have returned from survives kill -9 and power loss. One process writes
    at a time (a second one is refused in one line); others read meanwhile and follow it: LanceDB's
    see each `add` whole and at once, Milvus's each picture whole and after some seconds. Threads
    may share a collection, forked children may not.

    Attributes:
        uri: what the user named it by.
        dim: numbers of a vector.
        notes: what else is kept, plain JSON values: under "model" what `open_collection` was given
            when it was made; change it by `note`.
    """

    uri: str

    @property
    def dim(self) -> int: ...

    @property
    def notes(self) -> Mapping[str, Any]: ...

    def add(self, pictures: Sequence[Picture], vectors: Floats) -> None:
        """Keep pictures with their vectors, float32 [N, dim], L2-normalised, in place of those that
        have their ids. No two have one id."""

    def delete(self, ids: Sequence[str]) -> None:
        """Those that are not there are no error."""

    def search(self, query: Floats, k: int, where: Filter = EVERYTHING) -> list[Hit]:
        """The k nearest to `query`, float32 [dim], L2-normalised, of those that pass; nearest
        first, ties by id."""

    def ranking(
        self, query: Floats, k: int, where: Filter = EVERYTHING
    ) -> tuple[list[str], Floats]:
        """Ids and cosines, float32 [K], of what `search` gives: for lists of 100,000 hits, of which
        few are looked at."""

    def count(self, where: Filter = EVERYTHING) -> int:
        """How many pass."""

    def pictures(self, where: Filter = EVERYTHING) -> Iterator[Picture]:
        """All that pass, in no order, in bounded memory: as they were when this began in LanceDB;
        in Milvus what is changed meanwhile may be missing or new."""

    def get(self, ids: Sequence[str]) -> list[Picture | None]:
        """By id, in the ids' order; None where there is no such picture."""

    def vectors(self, ids: Sequence[str]) -> Floats:
        """float32 [N, dim]. Raises KeyError for an id that is not there."""

    def note(self, **values: Any) -> None:
        """Set entries of `notes`, durably; None removes one."""

    def optimize(self) -> Mapping[str, Any]:
        """Compact what many writes left, make or renew the index where the size asks for one.

        Returns:
            "index": None for an exact scan, else its kind; "recall": recall@10 against exact,
            measured on this collection; "rows": how many pictures; others of the store's own. They
            are in the notes too, under "index".
        """

    def close(self) -> None:
        """Give back files, locks and connections."""


def picture_id(path: str) -> str:
    """The id of the picture at an absolute path."""
    return hashlib.sha256(path.encode()).hexdigest()[:20]
