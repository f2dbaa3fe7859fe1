"""Search in a collection: the command line and HTTP use it alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ernie_vil2.data.arrays import Floats
from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import EVERYTHING, Collection, Filter
from ernie_vil2.search.query import Query
from ernie_vil2.search.results import Found, Group

MOST = 100_000  # hits that one can scroll to


class UnknownPicture(UserError):
    """An id, or a path, of no picture in the collection."""


class Encoder(Protocol):
    """The model: `serving.predictor.Predictor` is one. Threads may share it."""

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """float32 [N, D], L2-normalised."""

    def encode_image(self, images: Sequence[bytes]) -> Floats:
        """float32 [N, D], L2-normalised, of encoded files. Raises ImageError for what is none."""


class Searcher:
    """A collection and the model that its vectors are of.

    Threads may share it. It keeps the last rankings, so that a page that scrolls does not search
    again. The collection may change meanwhile: what was deleted is left out, what was added shows
    when a ranking is older than `max_age`.

    Args:
        collection: open for reading; nothing is written to it.
        encoder: the model.
        rankings: how many are kept.
        max_age: seconds that one is used for.
    """

    def __init__(
        self, collection: Collection, encoder: Encoder, rankings: int = 16, max_age: float = 300
    ):
        raise NotImplementedError

    def search(
        self,
        query: Query,
        k: int = 20,
        offset: int = 0,
        where: Filter = EVERYTHING,
        minimum: float | None = None,
        fold: bool = True,
    ) -> Found:
        """The k best hits from `offset` on, of those that pass.

        Args:
            query: `parse_query(text)`, or `Query.of_picture(bytes)`, or a sum of both.
            k: at most so many hits.
            offset: hits to pass over: that of the next page is this one's plus its hits' number.
            where: which pictures; recall is exact under a filter too.
            minimum: the least relevance, 0 to 1, of a hit; None: hide nothing.
            fold: make one hit of near-duplicates, the best one.

        Raises:
            UserError: the query's terms cancel out; a picture of it cannot be read (ImageError) or
                is not in the collection (UnknownPicture).
        """
        raise NotImplementedError

    def similar(
        self,
        id: str,
        k: int = 20,
        offset: int = 0,
        where: Filter = EVERYTHING,
        minimum: float | None = None,
        fold: bool = True,
    ) -> Found:
        """Pictures like the one with that id, without it; else as `search`.

        Raises:
            UnknownPicture: no such id.
        """
        return self.search(Query.like(id), k, offset, where, minimum, fold)

    def duplicates(self, where: Filter = EVERYTHING) -> list[Group]:
        """Near-duplicates among the pictures that pass: groups of two or more, largest first."""
        raise NotImplementedError
