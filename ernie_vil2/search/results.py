"""What a search gives: plain data, which both the command line and HTTP write as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from ernie_vil2.search.collection import Picture


@dataclass(frozen=True)
class FoundPicture:
    """One hit.

    Attributes:
        picture: what the collection keeps of it.
        cosine: with the query, -1 to 1.
        relevance: the share of random queries, 0 to 1, whose best hit in this collection stands
            out less than this one does: 1 is better than what any of them finds, 0.5 is what half
            of them find. Never more than that of the hit before. None where the collection is too
            small to say (`Searcher`).
        likely: whether it is above the line; below it are hits as random queries have them. True
            where there is no line.
        duplicates: ids of the near-duplicates that are folded into it, best first.
    """

    picture: Picture
    cosine: float
    relevance: float | None
    likely: bool
    duplicates: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values: id, path, cosine, relevance, likely, duplicates ("count" and "ids"), and
        taken (ISO 8601, UTC), width, height, tags."""
        return {
            **short(self.picture),
            "cosine": round(self.cosine, 6),
            "relevance": self.relevance,
            "likely": self.likely,
            "duplicates": {"count": len(self.duplicates), "ids": list(self.duplicates)},
        }


@dataclass(frozen=True)
class Found:
    """One page of hits, best first.

    Attributes:
        query: as it was understood, in one line.
        hits: from `offset` on, at most as many as were asked for.
        offset: how many better ones were passed over.
        next: the offset of the page that follows; None: this was the last one.
        total: how many hits one can scroll to, at most `searcher.MOST`; with folding an upper bound
            until one is there, since later near-duplicates are only then looked at.
        line: how many of them are above the line: all from that place on are "probably not" what
            was asked for. None: no line is known, the collection is too small.
    """

    query: str
    hits: tuple[FoundPicture, ...]
    offset: int
    next: int | None
    total: int
    line: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, under the names of the attributes."""
        return {**asdict(self), "hits": [hit.to_json() for hit in self.hits]}


@dataclass(frozen=True)
class Group:
    """Pictures that are nearly the same, the largest first (pixels, then bytes of the file)."""

    pictures: tuple[Picture, ...]

    def to_json(self) -> dict[str, Any]:
        """{"count", "pictures"}."""
        return {"count": len(self.pictures), "pictures": [short(p) for p in self.pictures]}


def short(picture: Picture) -> dict[str, Any]:
    """A picture without what only programs read: id, path, taken, width, height, tags."""
    taken = datetime.fromtimestamp(picture.taken, timezone.utc)
    return {
        "id": picture.id,
        "path": picture.path,
        "taken": taken.isoformat().replace("+00:00", "Z"),
        "width": picture.width,
        "height": picture.height,
        "tags": list(picture.tags),
    }
