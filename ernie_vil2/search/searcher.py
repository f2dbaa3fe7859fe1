"""Search in a collection: the command line and HTTP use it alike."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ernie_vil2.data.arrays import Array, Floats, Numbers
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.search import near_duplicates
from ernie_vil2.search.collection import EVERYTHING, Collection, Filter
from ernie_vil2.search.query import Query, Term
from ernie_vil2.search.ranking import MOST, Asked, Ranking
from ernie_vil2.search.reading import vectors_of
from ernie_vil2.search.relevance import NOTE, Background
from ernie_vil2.search.results import Found, FoundPicture, Group

__all__ = ["MOST", "Encoder", "Searcher", "UnknownPicture", "calibrate"]

_CANCELLED = 1e-3  # of the sum of weights: less is left of terms that cancel out


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
    in a first page whose ranking is older than `max_age`; later pages go on with the one they have.

    Args:
        collection: open for reading; nothing is written to it.
        encoder: the model.
        rankings: how many are kept.
        max_age: seconds after which a first page asks anew.

    Attributes:
        background: what random queries find, with which hits are compared.
    """

    def __init__(
        self, collection: Collection, encoder: Encoder, rankings: int = 16, max_age: float = 30
    ):
        self.background = Background(collection, encoder)
        self._collection, self._encoder = collection, encoder
        self._most, self._max_age = rankings, max_age
        self._rankings: OrderedDict[Any, Ranking] = OrderedDict()
        self._lock = threading.Lock()

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
            query: `parse_query(text)`, or `Query.of_picture(bytes)`, or a sum of both. Pictures of
                the collection that it names are no hits.
            k: at most so many hits.
            offset: `next` of the page before.
            where: which pictures; recall is exact under a filter too.
            minimum: the least relevance, 0 to 1, of a hit; None: hide nothing.
            fold: make one hit of near-duplicates, the best one.

        Raises:
            UserError: the query's terms cancel out; a picture of it cannot be read (ImageError) or
                is not in the collection (UnknownPicture).
        """
        ranking = self._ranking((query, where, minimum, fold), offset > 0)
        end = min(offset + k, MOST)
        total, line, read = ranking.settle(end)
        settled = ranking.settled[offset:end]
        pictures = dict(read)
        unread = [hit.id for hit in settled if hit.id not in pictures]
        if unread:
            found = self._collection.get(unread)
            pictures.update((x.id, x) for x in found if x is not None)  # else deleted since
        hits = tuple(
            FoundPicture(pictures[hit.id], hit.cosine, hit.relevance, hit.likely, tuple(hit.folded))
            for hit in settled
            if hit.id in pictures
        )
        following = end if end < min(total, MOST) and settled else None
        return Found(str(query), hits, offset, following, total, line)

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
        ids: list[str] = []
        hashes: list[int] = []
        for picture in self._collection.pictures(where):
            ids.append(picture.id)
            hashes.append(picture.dhash)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        ids = [ids[place] for place in order]

        def vectors(places: Numbers) -> Floats:
            wanted = [ids[place] for place in places.tolist()]
            there, found = vectors_of(self._collection, wanted)
            at = {id: row for row, id in enumerate(there)}
            gone = np.zeros([1, self._collection.dim], np.float32)  # near to nothing
            return np.concatenate([found, gone])[[at.get(id, -1) for id in wanted]]

        made = near_duplicates.groups(np.array(hashes, np.int64)[order], vectors)
        groups = [self._group([ids[place] for place in places.tolist()]) for places in made]
        groups = [group for group in groups if len(group.pictures) > 1]
        return sorted(groups, key=lambda group: (-len(group.pictures), group.pictures[0].path))

    def vector(self, query: Query) -> Floats:
        """The query's embedding, float32 [D], L2-normalised; errors as of `search`."""
        texts = [term.text for term in query.terms if term.text is not None]
        text_vectors = iter(self._encoder.encode_text(texts) if texts else ())
        total: Array = np.zeros(self._collection.dim)
        for term in query.terms:
            vector = next(text_vectors) if term.text is not None else self._picture_vector(term)
            total = total + term.weight * vector.astype(np.float64)
        norm = float(np.linalg.norm(total))
        if norm <= _CANCELLED * sum(abs(term.weight) for term in query.terms):
            raise UserError(
                f"query {query}: its terms cancel out, which leaves nothing to look for"
            )
        return (total / norm).astype(np.float32)

    def _picture_vector(self, term: Term) -> Floats:
        if term.id is not None:
            try:
                return self._collection.vectors([term.id])[0]
            except KeyError:
                raise UnknownPicture(
                    f"{term.name or term.id} is no picture of {self._collection.uri}; "
                    "a picture that is in no collection is a query by itself"
                ) from None
        assert term.image is not None
        try:
            return self._encoder.encode_image([term.image])[0]
        except ImageError as error:
            reason = str(error).partition("image 0: ")[2] or error
            raise ImageError(f"{term.name or 'picture'}: {reason}") from None

    def _ranking(self, key: tuple[Query, Filter, float | None, bool], goes_on: bool) -> Ranking:
        with self._lock:
            ranking = self._rankings.get(key)
            fresh = ranking is not None and time.monotonic() - ranking.born < self._max_age
            if ranking is not None and (goes_on or fresh):
                self._rankings.move_to_end(key)
                return ranking
        query, where, minimum, fold = key
        vector = self.vector(query)

        def shares(cosines: Floats) -> Array | None:
            return self.background.shares(query, vector, cosines)

        asked = Asked(vector, where, query.ids, minimum, fold, shares)
        ranking = Ranking(self._collection, asked)
        with self._lock:
            self._rankings[key] = ranking
            self._rankings.move_to_end(key)
            while len(self._rankings) > self._most:
                self._rankings.popitem(last=False)
        return ranking

    def _group(self, ids: Sequence[str]) -> Group:
        pictures = [picture for picture in self._collection.get(ids) if picture is not None]
        pictures.sort(key=lambda x: (-x.width * x.height, -x.size, x.path))
        return Group(tuple(pictures))


def calibrate(collection: Collection, encoder: Encoder) -> None:
    """See to it that a collection which is open for writing has what relevance needs in its notes.

    A search does it by itself, but then it takes the time of the first one.
    """
    background = Background(collection, encoder)
    background.learn()
    kept = background.kept()
    if kept is not None:
        collection.note(**{NOTE: kept})
