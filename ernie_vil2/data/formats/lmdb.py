"""Chinese-CLIP's LMDB, as its build_lmdb_dataset.py writes it for each split.

    train/pairs  "0", "1", ... -> pickle of (image id, text id, text); "num_samples" -> how many
    train/imgs   image id -> base64, URL-safe; "num_images" -> how many

A text that belongs to several images has a pair for each of them, one after another; it is one text
here, as it was one row of the `*_texts.jsonl` that the pairs were made from. LMDB keeps images in
the order of their ids' bytes, whatever their order was in `*_imgs.tsv`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.database import Database
from ernie_vil2.data.formats.index import Arrays, cached
from ernie_vil2.data.formats.joined import JoinedReader, Text, text_id
from ernie_vil2.data.formats.mapped import Column, Write
from ernie_vil2.data.formats.pictures import TextRows
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from ernie_vil2.files.pickles import plain_value

_BLOCK = 1 << 16  # numbers that are written to an index at a time
_PAIRS_COUNT, _IMAGES_COUNT = b"num_samples", b"num_images"


class _Images:
    """The rows of `imgs`: a row is a key, in the order in which LMDB keeps them."""

    def __init__(self, path: str):
        self.database = Database(path, _IMAGES_COUNT)
        self._index: Arrays | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    def _arrays(self) -> Arrays:
        """ "ends": where each key ends in "keys", the bytes of all of them, eight in a number."""
        if self._index is None:
            self._index = cached([self.database.file], "lmdb images", self._build)
        return self._index

    def _build(self, write: Write) -> None:
        def keys() -> Iterator[bytes]:
            return (key for key in self.database.all_keys() if key != _IMAGES_COUNT)

        _write_numbers(write, "ends", itertools.accumulate(map(len, keys())))
        rest = b""
        for key in keys():
            rest += key
            if len(rest) > _BLOCK:
                whole = len(rest) // 8 * 8
                write("keys", np.frombuffer(rest[:whole], np.int64))
                rest = rest[whole:]
        write("keys", np.frombuffer(rest.ljust(-(-len(rest) // 8) * 8, b"\0"), np.int64))

    def __len__(self) -> int:
        return len(self._arrays().column("ends"))

    def key(self, row: int) -> tuple[str, bytes]:
        """(source, key) of a row."""
        ends, keys = map(self._arrays().column, ("ends", "keys"))
        start, end = ends[row - 1] if row else 0, ends[row]
        first = start // 8
        key = keys[first : -(-end // 8)].tobytes()[start - 8 * first : end - 8 * first]
        return f"{self.database.path}:{key.decode(errors='backslashreplace')}", key


class _Texts:
    """The rows of `pairs`, in which pairs of one text in a row are one row."""

    def __init__(self, path: str):
        self.database = Database(path, _PAIRS_COUNT)
        if self.database.count >= len(self.database):
            raise UserError(
                f"{path} has {len(self.database) - 1} pairs, of {self.database.count} that it "
                "says: build it again"
            )
        self._firsts: Column | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_firsts": None}

    def _rows(self) -> Column:
        """The first pair of each text."""
        if self._firsts is None:
            self._firsts = cached([self.database.file], "lmdb texts", self._build).column("firsts")
        return self._firsts

    def _build(self, write: Write) -> None:
        def firsts() -> Iterator[int]:
            before = None
            for number in range(self.database.count):
                try:
                    text: Text | None = self._pair(number)
                except BadRecord:
                    text = None  # a row of its own; the reason is given when it is asked for
                here = text and (text.text_id, text.text)
                if here is None or here != before or here[0] is None:
                    yield number
                before = here

        _write_numbers(write, "firsts", firsts())

    def __len__(self) -> int:
        return len(self._rows())

    def row(self, row: int) -> Text:
        """A text, with the ids of all its images. Raises BadRecord."""
        firsts = self._rows()
        end = self.database.count if row + 1 == len(firsts) else firsts[row + 1]
        first, *others = map(self._pair, range(firsts[row], end))
        return first._replace(image_ids=[i for pair in (first, *others) for i in pair.image_ids])

    def _pair(self, number: int) -> Text:
        source = f"{self.database.path}:{number}"
        data = self.database.read(b"%d" % number, source)
        try:
            value = plain_value(data)
        except ValueError as error:
            raise BadRecord(source, str(error)) from error
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            raise BadRecord(source, "no tuple of image id, text id and text")
        image_id, own_id, text = value
        return Text(
            source,
            rows.text(text, "text", source),
            [rows.identity(image_id, "image id", source)],
            text_id(own_id),
        )


def _write_numbers(write: Write, name: str, numbers: Iterable[int]) -> None:
    numbers = iter(numbers)
    while block := list(itertools.islice(numbers, _BLOCK)):
        write(name, block)
    write(name, [])


class LmdbReader(JoinedReader):
    """Chinese-CLIP's LMDB of one split: a record per image, with all its captions.

    Args:
        path: the split's folder, which holds the folders pairs and imgs.
    """

    _images: _Images
    _texts: _Texts

    def __init__(self, path: str):
        folder = _split(path)
        images, texts = (
            _Images(os.path.join(folder, "imgs")),
            _Texts(os.path.join(folder, "pairs")),
        )
        super().__init__(images, texts, [images.database.file, texts.database.file], "lmdb")
        rows.refuse_empty(self, folder)

    def _image_id(self, row: int) -> str:
        source, key = self._images.key(row)
        return rows.text(rows.decode(key, source), "image id", source)

    def _text_row(self, row: int) -> Text:
        return self._texts.row(row)

    def _image(self, row: int) -> tuple[str, str, bytes]:
        source, key = self._images.key(row)
        image = rows.from_base64(self._images.database.read(key, source), source)
        return source, self._image_id(row), image


def pair_texts(file: str) -> TextRows:
    """How many texts the pairs in `file`, a data.mdb, have, and what each says."""
    texts = _Texts(os.path.dirname(file))
    return len(texts), lambda row: (texts.row(row).text,)


def _split(path: Any) -> str:
    """The folder of a split."""
    if not isinstance(path, (str, os.PathLike)) or not os.path.isdir(path):
        raise UserError(f"{path} is no folder: name that of a split, with pairs and imgs in it")
    path = os.fspath(path)
    if not os.path.isdir(os.path.join(path, "pairs")):
        splits = sorted(
            name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name, "pairs"))
        )
        hint = f"; did you mean {os.path.join(path, splits[0])}?" if splits else ""
        raise UserError(
            f"{path} holds no folder pairs, as Chinese-CLIP's LMDB of a split does{hint}"
        )
    return path
