"""Sets whose texts have rows of their own, which name the images that they belong to."""

from __future__ import annotations

import bisect
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats.index import Arrays, cached
from ernie_vil2.data.formats.mapped import Column, Write
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.keys import key
from ernie_vil2.data.records import BadRecord, Record

log = logging.getLogger("ernie_vil2")
_T = TypeVar("_T")


class Text(NamedTuple):
    """A row of texts, which names the images that it belongs to, by their ids."""

    source: str
    text: str
    image_ids: list[str]
    text_id: int | str | None  # None where it has none


# What the rows of a JoinedReader are, in this order: names of arrays of its index.
_TRAINING = ("images", "bad_images", "bad_texts", "lone_texts")
_EVALUATION = ("every_image", "lone_texts", "bad_images", "bad_texts", "unknown")
_LEFT_OUT = {
    "images_without_text": "images without text are left out of training, not of an evaluation",
    "repeated_images": "repeated images are left out",
    "texts_of_unknown_images": "texts of unknown images are left out of training",
}


class JoinedReader(Reader):
    """Images and texts that name them: a record per image with text, then the rows that are bad.

    As an evaluation reads it, a record per image, then per text without image, then the bad rows,
    among which are the texts that name an image which is not there.
    Sub-classes say what a row is by _image_id, _image and _text_row.

    Args:
        images, texts: the rows of each.
        paths: the files that they are in.
        kind: of the format, which tells its index from that of another.

    Attributes:
        counts: what training leaves out: images without text, repeated images, and texts that name
            images which are not there.
    """

    def __init__(self, images: Sized, texts: Sized, paths: Sequence[str], kind: str):
        self._images, self._texts = images, texts
        self._paths, self._kind = paths, kind
        self._index: Arrays | None = None
        without_text, repeated, unknown = map(int, self._joined()["counts"])
        self.counts = {
            "images_without_text": without_text,
            "repeated_images": repeated,
            "texts_of_unknown_images": unknown,
        }
        for what, count in self.counts.items():
            if count:
                log.warning("%s: %d %s", paths[0], count, _LEFT_OUT[what])

    def _image_id(self, row: int) -> str:
        """The id of an image. Raises BadRecord."""
        raise NotImplementedError

    def _image(self, row: int) -> tuple[str, str, bytes]:
        """The source, id and encoded file of an image. Raises BadRecord."""
        raise NotImplementedError

    def _text_row(self, row: int) -> Text:
        """A row of texts. Raises BadRecord."""
        raise NotImplementedError

    def _joined(self) -> Arrays:
        if self._index is None:
            self._index = cached(self._paths, f"{self._kind} 2", self._build)
        return self._index

    def _build(self, write: Write) -> None:
        bad_images: list[int] = []
        bad_texts: list[int] = []
        lone_texts: list[int] = []

        def each(
            all_rows: Sized, parse: Callable[[int], _T], bad: list[int]
        ) -> Iterator[tuple[int, _T]]:
            for row in range(len(all_rows)):
                try:
                    parsed = parse(row)
                except BadRecord:
                    bad.append(row)  # the reason is given when the row is asked for
                    continue
                if parsed == []:
                    lone_texts.append(row)
                else:
                    yield row, parsed

        arrays = join(
            each(self._images, self._image_id, bad_images),
            each(self._texts, lambda row: self._text_row(row).image_ids, bad_texts),
        )
        for name, numbers in arrays.items():
            write(name, numbers)
        write("bad_images", bad_images)
        write("bad_texts", bad_texts)
        write("lone_texts", lone_texts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    def _parts(self) -> dict[str, Column]:
        names = _TRAINING if self.least_captions else _EVALUATION
        return {name: self._joined().column(name) for name in names}

    def __len__(self) -> int:
        return sum(map(len, self._parts().values()))

    def _get(self, position: int) -> Record:
        for kind, found in self._parts().items():
            if position < len(found):
                return self._read(kind, found[position])
            position -= len(found)
        raise AssertionError("a position beyond the end")

    def _read(self, kind: str, row: int) -> Record:
        if kind in ("images", "every_image"):
            return self._record(row, self._texts_of(row))
        if kind == "bad_images":
            self._image_id(row)
            raise AssertionError("a row that was bad is not any more")
        text = self._text_row(row)
        if kind == "unknown":
            ids = ", ".join(text.image_ids)
            raise BadRecord(text.source, f"not all images that it names are there: {ids}")
        if self.least_captions:
            raise BadRecord(text.source, "it names no image")
        assert kind == "lone_texts", "a row that was bad is not any more"
        return Record("", b"", (text.text,), (), text.source, ((row, text.text_id),))

    def _texts_of(self, image: int) -> list[tuple[int, Text]]:
        """(row, Text) of the texts that an image's row has."""
        images, starts, texts = map(self._joined().column, ("images", "starts", "texts"))
        number = bisect.bisect_left(images, image)
        if number == len(images) or images[number] != image:
            return []
        start, end = starts[number : number + 2]
        return [(row, self._text_row(row)) for row in map(int, texts[start:end])]

    def _record(self, row: int, texts: Sequence[tuple[int, Text]]) -> Record:
        source, image_id, image = self._image(row)
        texts = [(row, text) for row, text in texts if image_id in text.image_ids]
        captions = tuple(text.text for _, text in texts)
        text_ids = tuple((row, text.text_id) for row, text in texts)
        return Record(image_id, image, captions, (), source, text_ids)


def text_id(value: Any) -> int | str | None:
    """A text's own id, by which predictions name it; None for anything else."""
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def join(
    image_ids: Iterable[tuple[int, str]], text_ids: Iterable[tuple[int, Sequence[str]]]
) -> dict[str, Numbers]:
    """Which texts belong to which image. Holds numbers only.

    Args:
        image_ids: (row, id), in order of row.
        text_ids: (row, ids of its images).

    Returns:
        "images" int64 [N], rows of the images with text; "starts" int64 [N + 1] and "texts": the
        text rows of image n are texts[starts[n] : starts[n + 1]]; "every_image", rows of all images
        but repeated ones; "unknown", rows of the texts that name an image which is not there; and
        "counts": images without text, repeated images, texts of unknown images.
    """
    keys, rows = _columns((key(image_id), row) for row, image_id in image_ids)
    wanted, texts = _columns(
        (key(image_id), row) for row, ids in text_ids for image_id in dict.fromkeys(ids)
    )
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


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[Numbers, Numbers]:
    """Pairs as two arrays."""
    flat = array("q")
    for pair in pairs:
        flat.extend(pair)
    both = np.array(flat, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
