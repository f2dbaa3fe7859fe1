"""The formats of data sets: official TSV, image folder and Chinese-CLIP.

Rows are found through an index and parsed when they are asked for, so memory does not grow with
the set. A row that is no record is neither dropped nor fatal: asking for it raises BadRecord.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ernie_vil2.data.formats import index, rows
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_MAX_ID_BYTES = 4096  # an image's id is looked for so far into its row


class Reader:
    """A sequence of records; `reader[i]` raises BadRecord where row i is none."""

    _least_captions = 1  # of a record

    def evaluation(self) -> Reader:
        """The same set as an evaluation reads it: an image without a text is a record too, and so
        is a text without an image, which training has no use for."""
        reader = copy.copy(self)
        reader._least_captions = 0
        return reader

    def __len__(self) -> int:
        raise NotImplementedError

    def _get(self, position: int) -> Record:
        raise NotImplementedError

    def __getitem__(self, position: int) -> Record:
        size = len(self)
        if not -size <= position < size:
            raise IndexError(f"record {position} of {size}")
        return self._get(int(position) % size)


class TsvReader(Reader):
    r"""Rows `text \t image id \t base64 [\t tags]`, the official format.

    path: a file, a pattern such as "train-*.tsv", or a list of these. tag_separator: what stands
    between tags. The base64 may be standard or URL-safe, padded or not. Each row is a record, a
    blank one a bad record.
    """

    def __init__(self, path: str | Sequence, tag_separator: str = "|"):
        paths = rows.files(path)
        if not isinstance(tag_separator, str) or not tag_separator:
            raise UserError(f'tag_separator is {tag_separator!r}: give a string, such as "|"')
        self._separator = tag_separator
        self._files = [index.lines(path) for path in paths]
        self._ends = np.cumsum([len(file) for file in self._files])
        rows.refuse_empty(self, ", ".join(paths))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _columns(self, position: int) -> tuple:
        number = int(np.searchsorted(self._ends, position, side="right"))
        file = self._files[number]
        row = position - int(self._ends[number]) + len(file)
        source, line = rows.line(file, row)
        columns = line.split(b"\t")
        if len(columns) not in (3, 4):
            raise BadRecord(
                source, f"{len(columns)} columns, expected text, image id, base64 and maybe tags"
            )
        tags = rows.decode(columns[3], source) if len(columns) == 4 else ""
        return (
            source,
            rows.text(rows.decode(columns[0], source), "text", source),
            *columns[1:3],
            tags,
        )

    def _get(self, position: int) -> Record:
        source, caption, image_id, image, tags = self._columns(position)
        return Record(
            id=rows.text(rows.decode(image_id, source), "image id", source),
            image=rows.from_base64(image, source),
            captions=(caption,),
            tags=tuple(tag.strip() for tag in tags.split(self._separator) if tag.strip()),
            source=source,
        )

    def texts(self, position: int) -> tuple:
        """What a record says, its image not read: the caption, and the tags as they stand there."""
        _, caption, _, _, tags = self._columns(position)
        return caption, tags


class FolderReader(Reader):
    """A folder of images and a JSONL file.

    Each line: {"image": path within root, "captions": [...] or "caption": "...", "tags": [...],
    "id": ...}; tags and id may be missing, the id is then the path. No path may leave root, not by
    a symbolic link either.
    """

    def __init__(self, root: str, jsonl: str):
        self._root = rows.folder(root)
        self._rows = index.lines(rows.file(jsonl))
        rows.refuse_empty(self, jsonl)

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, position: int) -> tuple:
        source, line = rows.line(self._rows, position)
        row = rows.json_object(line, source)
        captions = row["captions"] if "captions" in row else [row.get("caption")]
        captions = rows.texts(captions, "captions", source, self._least_captions)
        return source, row, captions, rows.texts(row.get("tags") or [], "tags", source)

    def _get(self, position: int) -> Record:
        source, row, captions, tags = self._row(position)
        path = rows.text(row.get("image"), '"image"', source)
        image_id = os.path.normpath(path) if row.get("id") is None else row["id"]
        return Record(
            id=rows.identity(image_id, "id", source),
            image=rows.read_image(self._root, path, source),
            captions=captions,
            tags=tags,
            source=source,
        )

    def texts(self, position: int) -> tuple:
        """What a record says, its image not read: captions and tags."""
        _, _, captions, tags = self._row(position)
        return captions + tags


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

        arrays = index.join(
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
        return {name: arrays[name] for name in (_TRAINING if self._least_captions else _EVALUATION)}

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
        if self._least_captions:
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


def chinese_clip_text(spans: index.Spans, row: int) -> Text:
    """A row of `*_texts.jsonl`; of a test set it may name no image."""
    source, line = rows.line(spans, row)
    parsed = rows.json_object(line, source)
    ids = parsed.get("image_ids")
    if not isinstance(ids, list):
        raise BadRecord(source, '"image_ids" is no list of ids')
    ids = [rows.identity(image_id, '"image_ids"', source) for image_id in ids]
    text = rows.text(parsed.get("text"), '"text"', source)
    return Text(source, text, ids, text_id(parsed.get("text_id")))


class ChineseClipReader(JoinedReader):
    r"""Chinese-CLIP's layout: a record per image, with all its captions.

    imgs: `*_imgs.tsv` with rows `id \t base64`. texts: `*_texts.jsonl` with {"text_id", "text",
    "image_ids"}; an evaluation takes an empty list of ids, as in MUGE's test set. `counts` says
    what training leaves out: images without text, repeated images, and texts that name images
    which are not there.
    """

    def __init__(self, imgs: str, texts: str):
        self._images, self._texts = index.lines(rows.file(imgs)), index.lines(rows.file(texts))
        self._join([self._images.path, self._texts.path], "chinese_clip")
        rows.refuse_empty(self, f"{imgs} and {texts}")

    def _image_id(self, row: int) -> str:
        source, start = rows.line(self._images, row, _MAX_ID_BYTES)
        image_id, tab, _ = start.partition(b"\t")
        if not tab:
            raise BadRecord(source, "one column, expected image id and base64")
        return rows.text(rows.decode(image_id, source), "image id", source)

    def _text_row(self, row: int) -> Text:
        return chinese_clip_text(self._texts, row)

    def _image(self, row: int) -> tuple:
        source, line = rows.line(self._images, row)
        columns = line.split(b"\t")
        if len(columns) != 2:
            raise BadRecord(source, f"{len(columns)} columns, expected image id and base64")
        return source, self._image_id(row), rows.from_base64(columns[1], source)


def text_id(value) -> int | str | None:
    """A text's own id, by which predictions name it; None for what is none."""
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None
