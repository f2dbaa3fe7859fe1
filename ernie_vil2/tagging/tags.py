"""What every tagger gives, and which of what it found becomes a tag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError

ORDERS = ("score", "area")
DIGITS = 4  # of a score: the rest of a float32 depends on the processor


class Found(NamedTuple):
    """Something that a tagger saw.

    Attributes:
        name: in words.
        score: how sure it is.
        area: share of the picture's area, 0..1; 0 where the tagger does not say where.
    """

    name: str
    score: float
    area: float = 0.0


@dataclass(frozen=True)
class Tags:
    """The tags of a record.

    Attributes:
        names: each once.
        scores: of each name.
        bad: why the record's picture could not be looked at; empty: it was.
    """

    names: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    bad: str = ""


@dataclass(frozen=True)
class Choice:
    """Which of what a tagger found is kept, and in what order.

    Attributes:
        threshold: the least score; None: what the tagger itself takes for one.
        at_most: so many tags; None: any number.
        order: "score": the surest first; "area": the largest first.
    """

    threshold: float | None = None
    at_most: int | None = None
    order: str = "score"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise UserError(f"order of tags {self.order!r}: expected one of {', '.join(ORDERS)}")

    def __call__(self, found: Iterable[Found], threshold: float) -> Tags:
        """The tags: of things of one name the surest, or in order of area the largest.

        Args:
            threshold: the tagger's own.
        """
        least = threshold if self.threshold is None else self.threshold
        best: dict[str, Found] = {}
        for thing in found:
            if thing.score >= least:
                name = thing.name
                best[name] = max(best.get(name, thing), thing, key=self._rank)
        # sorted() is stable: equals stay in the order in which they were found
        kept = sorted(best.values(), key=self._rank, reverse=True)[: self.at_most]
        scores = tuple(round(float(thing.score), DIGITS) for thing in kept)
        return Tags(tuple(thing.name for thing in kept), scores)

    def _rank(self, thing: Found) -> tuple[float, float]:
        ranks = (thing.score, thing.area)
        return ranks if self.order == "score" else ranks[::-1]


class Tagger(Protocol):
    """Gives the tags of records. Picklable: what it opens, it opens in the process that asks.

    Attributes:
        origin: what it is, for the files that it writes: kind, name and a checksum.
    """

    origin: str

    def tag(self, records: Sequence[Record]) -> list[Tags]:
        """One for each record, whatever stands beside it."""
        ...
