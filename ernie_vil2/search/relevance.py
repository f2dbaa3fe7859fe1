"""How a hit compares with what random queries find in the same collection.

A cosine says little by itself: some queries are near to every picture. What separates queries with
a picture of theirs in the collection from those without is how far the best hit stands out, its
cosine less the mean over the collection, a product with the collection's mean vector. A hit's
relevance is the share of random queries whose best hit stands out less: 1 minus the p-value, by
their own distribution, of "the query is a random one".

Between pictures a cosine of 1 is in reach, whatever the mean is: there what stands out is measured
in parts of the way from the mean to 1, so that nothing stands out more than the picture itself.
"""

from __future__ import annotations

import functools
import math
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import ernie_vil2
from ernie_vil2.data.arrays import Floats
from ernie_vil2.search.collection import Collection
from ernie_vil2.search.query import Query
from ernie_vil2.search.reading import vectors_of

LIKELY = 0.5  # the line: below it are hits as most random queries have better ones
FEWEST = 20  # pictures that random queries can be compared in
CHANGED = 0.2  # share of a collection that may come or go before they ask again
_WORDS, _PICTURES, _MIXED = 256, 128, 64  # random queries: texts, pictures, combinations
_SAMPLE = 1024  # pictures whose mean is taken
_ALL_AT_ONCE = 1000  # pictures a query: in fewer, reading all is faster than searching
_BATCH = 1000
_UNKNOWN: Floats = np.empty([0], np.float32)
LABELS = Path(ernie_vil2.__file__).parent / "data" / "labels"
NOTE = "background"  # its name in a collection's notes
_FORMULA = 1  # of `_standing_out`: another one makes notes of this one void

# Of a query: of each term whether it is a picture, and its weight, where 1 is the largest.
Form = tuple[tuple[bool, float], ...]
TEXT: Form = ((False, 1.0),)
PICTURE: Form = ((True, 1.0),)


class TextEncoder(Protocol):
    """The model's half for texts."""

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """float32 [N, D], L2-normalised."""


class Background:
    """Random queries in one collection; threads may share it.

    What it learns of texts and pictures alone it can put down in the collection's notes, where it
    finds it the next time; of combinations it keeps the last ones for itself.

    Args:
        collection: their pictures.
        encoder: for words, unless the notes have what they find.
    """

    def __init__(self, collection: Collection, encoder: TextEncoder):
        self._collection, self._encoder = collection, encoder
        self._lock = threading.Lock()
        self._count = -1
        self._mean: Floats = _UNKNOWN
        self._outstanding: dict[Form, Floats] = {}
        self._samples: tuple[list[str], Floats] | None = None

    def shares(self, query: Query, vector: Floats, cosines: Floats) -> Floats | None:
        """The relevance of hits: float64 [K], 0 to 1; None in a collection of too few pictures.

        Args:
            vector: the query's, float32 [D].
            cosines: of the hits with it, [K].
        """
        form = form_of(query)
        with self._lock:
            self._refresh()
            if self._count < FEWEST:
                return None
            if form not in self._outstanding:
                self._outstanding[form] = self._measure(form)
                for old in [x for x in self._outstanding if x not in (TEXT, PICTURE)][:-16]:
                    del self._outstanding[old]
            best, mean = self._outstanding[form], self._mean
        return np.searchsorted(best, _standing_out(form, cosines, vector @ mean)) / len(best)

    def kept(self) -> dict[str, Any] | None:
        """For the collection's note NOTE; None where it is there already, or nothing is known."""
        with self._lock:
            known = {
                name: np.round(self._outstanding[form].astype(float), 6).tolist()
                for name, form in _NAMED.items()
                if form in self._outstanding
            }
            noted = self._collection.notes.get(NOTE) or {}
            is_there = noted.get("formula") == _FORMULA and noted["count"] == self._count
            if not known or (is_there and known.keys() <= noted.keys()):
                return None
            mean = np.round(self._mean.astype(float), 7).tolist()
            model = self._collection.notes.get("model")
            about = {"formula": _FORMULA, "count": self._count, "model": model}
            return {**about, "mean": mean, **known}

    def learn(self) -> None:
        """Ask random texts and pictures now."""
        nothing = np.zeros(self._collection.dim, np.float32)
        for query in (Query.of_text(""), Query.like("")):
            self.shares(query, nothing, nothing[:0])

    # -- asking ------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Forget what a changed collection has made untrue; take what the notes have."""
        count = self._collection.count()
        if self._count >= 0 and _alike(count, self._count):
            return
        self._count, self._mean, self._samples, self._outstanding = count, _UNKNOWN, None, {}
        notes = self._collection.notes
        noted: dict[str, Any] = notes.get(NOTE) or {}
        made_so = noted.get("formula") == _FORMULA and noted.get("model") == notes.get("model")
        if made_so and _alike(count, noted["count"]):
            self._count = noted["count"]
            self._mean = np.array(noted["mean"], np.float32)
            self._outstanding = {
                form: np.array(noted[name], np.float32)
                for name, form in _NAMED.items()
                if name in noted
            }

    def _measure(self, form: Form) -> Floats:
        """How far the best hits of random queries of a form stand out: float32 [B], ascending."""
        ids, vectors = self._sample()
        size = {TEXT: _WORDS, PICTURE: min(_PICTURES, len(ids))}.get(form, _MIXED)
        draw = random.Random(0)
        queries = np.zeros([size, vectors.shape[1]], np.float32)
        own: list[set[str]] = [set() for _ in range(size)]
        for is_picture, weight in form:
            if is_picture:
                places = [place % len(ids) for place in draw.sample(range(size), size)]
                for found, place in zip(own, places):
                    found.add(ids[place])
            else:
                places = [place % _WORDS for place in draw.sample(range(size), size)]
            queries += weight * (vectors if is_picture else self._words)[places]
        queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
        return np.sort(_standing_out(form, self._best(queries, own), queries @ self._mean))

    @functools.cached_property
    def _words(self) -> Floats:
        """Of random words, float32 [_WORDS, D]."""
        return self._encoder.encode_text(random_words())

    def _sample(self) -> tuple[list[str], Floats]:
        """Random pictures of the collection and their vectors; of more, the mean."""
        if self._samples is None:
            ids = sorted(picture.id for picture in self._collection.pictures())
            some = random.Random(0).sample(ids, min(_SAMPLE, len(ids)))
            some, vectors = vectors_of(self._collection, some)
            self._samples = some[:_PICTURES], vectors[:_PICTURES]
            if self._mean is _UNKNOWN:
                self._mean = vectors.mean(0)
        return self._samples

    def _best(self, queries: Floats, own: Sequence[set[str]]) -> Floats:
        """The highest cosine of each query, [B, D], with a picture that is not its own: [B]."""
        collection = self._collection
        best = np.full(len(queries), -1, np.float32)
        if self._count > _ALL_AT_ONCE * len(queries):
            for place, (query, without) in enumerate(zip(queries, own)):
                ids, cosines = collection.ranking(query, len(without) + 1)
                others = [cos for id, cos in zip(ids, cosines.tolist()) if id not in without]
                best[place] = max(others, default=-1)
            return best
        ids = [picture.id for picture in collection.pictures()]
        for start in range(0, len(ids), _BATCH):
            some, vectors = vectors_of(collection, ids[start : start + _BATCH])
            cosines = queries @ vectors.T
            at = {id: place for place, id in enumerate(some)}
            for row, without in zip(cosines, own):
                row[[at[id] for id in without if id in at]] = -1
            best = np.maximum(best, cosines.max(1, initial=-1))
        return best


_NAMED = {"text": TEXT, "picture": PICTURE}


def form_of(query: Query) -> Form:
    """What random queries are made like it; weights in quarters, so that there are few forms."""
    largest = max(abs(term.weight) for term in query.terms)
    terms = ((term.text is None, term.weight / largest) for term in query.terms)
    return tuple(
        sorted(
            (is_picture, math.copysign(max(1, round(abs(w) * 4)) / 4, w)) for is_picture, w in terms
        )
    )


def _standing_out(form: Form, cosines: Floats, means: Floats) -> Floats:
    if all(is_picture for is_picture, _ in form):
        return (cosines - means) / np.maximum(1 - means, 1e-6)
    return cosines - means


@functools.cache
def random_words(count: int = _WORDS) -> tuple[str, ...]:
    """Words of the categories in `data/labels/`, Chinese and English, always the same."""
    words: set[str] = set()
    for file in sorted(LABELS.glob("*.tsv")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                words.update(line.split("\t")[2:4])
    return tuple(random.Random(0).sample(sorted(words), count))


def _alike(count: int, known: int) -> bool:
    return abs(count - known) <= CHANGED * min(count, known)
