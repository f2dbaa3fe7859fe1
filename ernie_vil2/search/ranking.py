"""The hits of one query, read and folded as far as somebody has scrolled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ernie_vil2.data.arrays import Array, Floats, Numbers
from ernie_vil2.data.close_hashes import CloseHashes, hamming
from ernie_vil2.search.collection import Collection, Filter, Picture
from ernie_vil2.search.near_duplicates import BITS, COSINE
from ernie_vil2.search.reading import vectors_of
from ernie_vil2.search.relevance import LIKELY

MOST = 100_000  # hits that one can scroll to
_FIRST = 1000  # hits that are asked for at first,
_MORE = 10  # and how many times as many the next time
FOLDED = 2000  # hits among which near-duplicates are folded: a jump to place 50,000 must not wait
_STEP = 256  # hits folded at a time, up to twice as many, and how far ahead of what is shown


@dataclass
class Settled:
    """A hit whose place is known.

    Attributes:
        relevance: None where none is known.
        folded: ids of its near-duplicates.
    """

    id: str
    cosine: float
    relevance: float | None
    folded: list[str] = field(default_factory=list)

    @property
    def likely(self) -> bool:
        return self.relevance is None or self.relevance >= LIKELY


@dataclass(frozen=True)
class Asked:
    """What a ranking is of.

    Attributes:
        vector: the query, float32 [D], L2-normalised.
        where: which pictures.
        without: ids that are no hits.
        minimum: the least relevance of a hit.
        fold: near-duplicates into the best of them, among the first FOLDED hits.
        shares: from cosines, [K], to relevance, [K]; None where none is known.
    """

    vector: Floats
    where: Filter
    without: set[str]
    minimum: float | None
    fold: bool
    shares: Callable[[Floats], Array | None]


class Extent(NamedTuple):
    """How far a ranking goes; of the hits that are not settled none is counted as folded.

    Attributes:
        total: hits to scroll to.
        likely: how many of them are; None: no relevance is known.
        read: pictures that were read to find out, by id.
    """

    total: int
    likely: int | None
    read: Mapping[str, Picture]


class Ranking:
    """Hits of one query, best first; threads may share it.

    Attributes:
        settled: the first hits; only grows.
        born: when it was begun, in seconds of the monotonic clock.
    """

    def __init__(self, collection: Collection, asked: Asked):
        self._collection, self._asked = collection, asked
        self._lock = threading.Lock()
        self._hits: list[Settled] = []  # as the collection gave them
        self._seen = set(asked.without)  # their ids
        self._place = 0  # so many of them are settled or folded
        self._depth, self._complete = 0, False
        self._likely = 0  # so many of the first hits are
        self._likely_settled = 0
        self._hashes = CloseHashes(BITS)  # of what is settled, if it is folded
        self.settled: list[Settled] = []
        self.born = time.monotonic()

    def settle(self, count: int) -> Extent:
        """See to it that `settled` has `count` hits, or all there are."""
        read: dict[str, Picture] = {}
        with self._lock:
            ahead = count + _STEP if self._asked.fold else count
            while len(self.settled) < count or self._place < ahead:
                if self._place < len(self._hits):
                    step = min(max(_STEP, ahead - self._place), 2 * _STEP)
                    self._settle(self._hits[self._place : self._place + step], read)
                elif self._complete:
                    break
                else:
                    self._ask(2 * ahead)
            while not self._complete and self._hits and self._hits[-1].likely:
                self._ask(0)
            total = len(self.settled) + len(self._hits) - self._place
            if not self._complete:
                count = min(MOST, self._collection.count(self._asked.where))
                total = max(total, count - (self._place - len(self.settled)))
            likely = self._likely_settled + max(0, self._likely - self._place)
            unknown = bool(self._hits) and self._hits[0].relevance is None
            return Extent(total, None if unknown else likely, read)

    def _ask(self, least: int) -> None:
        """Ask the collection for more hits; those that are there keep their places."""
        self._depth = depth = min(MOST, max(least, _FIRST, _MORE * self._depth))
        ids, cosines = self._collection.ranking(self._asked.vector, depth, self._asked.where)
        self._complete = len(ids) < depth or depth == MOST
        shares = self._asked.shares(cosines)
        relevance = [None] * len(ids) if shares is None else shares.tolist()
        for hit in map(Settled, ids, cosines.tolist(), relevance):
            if hit.relevance is not None and hit.relevance < (self._asked.minimum or 0):
                self._complete = True
                break
            if hit.id not in self._seen:
                self._seen.add(hit.id)
                self._hits.append(hit)
                self._likely += hit.likely

    def _settle(self, hits: Sequence[Settled], read: dict[str, Picture]) -> None:
        late = self._place >= FOLDED
        self._place += len(hits)
        if late or not self._asked.fold:
            self.settled += hits
            self._likely_settled += sum(hit.likely for hit in hits)
            return
        found = self._collection.get([hit.id for hit in hits])
        read.update((picture.id, picture) for picture in found if picture is not None)
        hits = [hit for hit in hits if hit.id in read]
        hashes = np.array([x.dhash for x in found if x is not None], np.int64)
        near = self._near_duplicates(hits, hashes)
        first = len(self.settled)  # places from here on are those of `hits`, until they are settled
        into = {x: self.settled[x] for rest in near.values() for x in rest if x < first}
        fresh = []
        for place, hit in enumerate(hits):
            target = next((into[x] for x in near.get(place, ()) if x in into), None)
            if target is None:
                self.settled.append(hit)
                self._likely_settled += hit.likely
                into[first + place] = hit
                fresh.append(place)
            else:
                target.folded.append(hit.id)
        self._hashes.add(hashes[fresh])

    def _near_duplicates(self, hits: Sequence[Settled], hashes: Numbers) -> dict[int, list[int]]:
        """Place in `hits` -> places of its near-duplicates among all that are settled and, behind
        those, `hits` before it; best first."""
        first = len(self.settled)
        close = hamming(hashes[:, None], hashes) <= BITS
        within = np.add(np.argwhere(np.tril(close, -1)), [0, first])  # the later, the earlier one
        pairs = np.concatenate([self._hashes.pairs(hashes), within]).tolist()
        if not pairs:
            return {}

        def name(place: int) -> str:
            return (self.settled[place] if place < first else hits[place - first]).id

        wanted = {name(other) for _, other in pairs} | {hits[place].id for place, _ in pairs}
        ids, vectors = vectors_of(self._collection, sorted(wanted))
        vector = dict(zip(ids, vectors))
        near: dict[int, list[int]] = {}
        for place, other in sorted(pairs):
            one, two = vector.get(hits[place].id), vector.get(name(other))
            if one is not None and two is not None and one @ two >= COSINE:
                near.setdefault(place, []).append(other)
        return near
