"""Sets whose texts have rows of their own, which name the images that they belong to."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ernie_vil2.data.formats import index
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import BadRecord, Record

log = logging.getLogger("ernie_vil2")


class Text(NamedTuple):
    """A row of texts. text_id: an int or str, None where there is none."""

    source: str
    text: str
    image_ids: list
    text_id: int | str | None


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
    Sub-classes set _images and _texts (Spans) and say what a row is by _image_id, _image (its
    source, id and bytes) and _text_row.
    """

    def _join(self, paths: Sequence, kind: str) -> None:
        self._paths, self._kind, self._index = paths, kind, None
        without_text, repeated, unknown = map(int, self._joined()["counts"])
        self.counts = {
            "images_without_text": without_text,
            "repeated_images": repeated,
            "texts_of_unknown_images": unknown,
        }
        for what, count in self.counts.items():
            if count:
                log.warning("%s: %d %s", paths[0], count, _LEFT_OUT[what])

    def _joined(self) -> dict:
        if self._index is None:
            self._index = index.cached(self._paths, f"{self._kind} 2", self._build)
        return self._index

    def _build(self, write) -> None:
        bad_images, bad_texts, lone_texts = [], [], []

        def each(spans, parse, bad):
            for row in range(len(spans)):
                try:
                    parsed = parse(row)
                except BadRecord:
                    bad.append(row)  # told again, with its reason, when the row is asked for
                    continue
                if parsed == []:
                    lone_texts.append(row)
                elif parsed is not None:
                    yield row, parsed

        arrays = join(
            each(self._images, self._image_id, bad_images),
            each(self._texts, lambda row: self._text_row(row).image_ids, bad_texts),
        )
        found = {"bad_images": bad_images, "bad_texts": bad_texts, "lone_texts": lone_texts}
        for name, numbers in {**arrays, **found}.items():
            write(name, numbers)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_index": None}

    def _parts(self) -> dict:
        arrays = self._joined()
        return {name: arrays[name] for name in (_TRAINING if self.least_captions else _EVALUATION)}

    def __len__(self) -> int:
        return sum(map(len, self._parts().values()))

    def _get(self, position: int) -> Record:
        for kind, found in self._parts().items():
            if position < len(found):
                return self._read(kind, int(found[position]))
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

    def _texts_of(self, image: int) -> list:
        """(row, Text) of the texts that an image's row has."""
        arrays = self._joined()
        number = int(np.searchsorted(arrays["images"], image))
        if number == len(arrays["images"]) or arrays["images"][number] != image:
            return []
        start, end = arrays["starts"][number : number + 2]
        return [(row, self._text_row(row)) for row in map(int, arrays["texts"][start:end])]

    def _record(self, row: int, texts: list) -> Record:
        source, image_id, image = self._image(row)
        texts = [(row, text) for row, text in texts if image_id in text.image_ids]
        captions = tuple(text.text for _, text in texts)
        text_ids = tuple((row, text.text_id) for row, text in texts)
        return Record(image_id, image, captions, (), source, text_ids)


def text_id(value) -> int | str | None:
    """A text's own id, by which predictions name it; None for what is none."""
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def join(image_ids: Iterable, text_ids: Iterable) -> dict:
    """Which texts belong to which image.

    image_ids: (row, id), in order of row; text_ids: (row, ids of its images). Holds numbers only.
    Returns "images" int64 [N], rows of the images with text; "starts" int64 [N + 1] and "texts":
    the text rows of image n are texts[starts[n] : starts[n + 1]]; "every_image", rows of all images
    but repeated ones; "unknown", rows of the texts that name an image which is not there; and
    "counts": images without text, repeated images, texts of unknown images.
    """
    keys, rows = array("q"), array("q")
    for row, image_id in image_ids:
        keys.append(_key(image_id))
        rows.append(row)
    wanted, texts = array("q"), array("q")
    for row, ids in text_ids:
        for image_id in dict.fromkeys(ids):
            wanted.append(_key(image_id))
            texts.append(row)
    keys, rows = np.array(keys, np.int64), np.array(rows, np.int64)
    wanted, texts = np.array(wanted, np.int64), np.array(texts, np.int64)
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


def _key(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
