"""Records' pictures decoded for a tagger; a bad one keeps its place and says what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.records import Record
from ernie_vil2.tagging.tags import Tags

T = TypeVar("T")


def each_picture(
    records: Sequence[Record], decode: Callable[[bytes], T], tags: Callable[[list[T]], list[Tags]]
) -> list[Tags]:
    """What `tags` gives for the pictures that can be decoded; for others, why they cannot.

    Args:
        records: N.
        decode: raises ImageError.
        tags: of at most N decoded pictures, all at once.

    Returns:
        N.
    """
    bad: dict[int, Tags] = {}
    images: dict[int, T] = {}
    for number, record in enumerate(records):
        try:
            images[number] = decode(record.image)
        except ImageError as error:
            bad[number] = Tags(bad=" ".join(str(error).split()))
    found = tags(list(images.values())) if images else []
    both = {**bad, **dict(zip(images, found))}
    return [both[number] for number in range(len(records))]
