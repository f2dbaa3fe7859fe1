"""What a data set is made of, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

_LONGEST = 600  # characters of a reason


@dataclass(frozen=True)
class Record:
    """An image with its texts."""

    id: str  # of the image: equal ids are the same image
    image: bytes  # the encoded file, not decoded; empty: a text alone, which only evaluations read
    captions: tuple[str, ...]  # at least one; an evaluation also takes an image without any
    tags: tuple[str, ...]  # possibly none
    source: str  # "file:row", rows counted from 1, for messages
    # (row in its file from 0, id or None) of each caption, where texts have rows of their own:
    # captions of one row are one text, whatever images they stand with. (): each is its own text
    text_ids: tuple[tuple[int, int | str | None], ...] = ()
    # what else the record says, by key, for sources that draw among several: one text, or several
    texts: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, hash=False)
    data_set: str = ""  # the name of the mixture's source that it is from

    def texts_of(self, key: str) -> tuple[str, ...]:
        """Its texts of this key, maybe none; "caption" stands for its captions."""
        found = self.texts.get(key, self.captions if key == "caption" else ())
        return (found,) if isinstance(found, str) else found


class Records(Protocol):
    """A sequence of records; `records[i]` raises BadRecord where row i is not a record."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Record: ...


class BadRecord(ValueError):
    """A row that is no record.

    Attributes:
        source: "file:row", rows counted from 1.
        reason: what is wrong with it, in one line, cut where it is very long.
    """

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)
        reason = " ".join(str(reason).split())
        if len(reason) > _LONGEST:  # it names a path of a megabyte, say
            reason = f"{reason[: _LONGEST - 100]} ... {reason[-100:]}"
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{' '.join(self.source.split())}: {self.reason}"
