"""The formats of data sets: official TSV, image folder and Chinese-CLIP.

Rows are found through an index and parsed when they are asked for, so memory does not grow with
the set. A row that is no record is neither dropped nor fatal: asking for it raises BadRecord.
"""

import logging
import os
from collections.abc import Sequence
from typing import Union

import numpy as np

from ernie_vil2.data import index, rows
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError

log = logging.getLogger(__name__)
_MAX_ID_BYTES = 4096  # an image's id is looked for so far into its row


class Reader:
    """A sequence of records; `reader[i]` raises BadRecord where row i is none."""

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

    def __init__(self, path: Union[str, Sequence], tag_separator: str = "|"):
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
        captions = rows.texts(captions, "captions", source, at_least=1)
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


class JoinedReader(Reader):
    """Images and texts that name them: a record per image with text, then the rows that are bad.

    Sub-classes set _images and _texts (Spans) and say what a row is by _image_id and _text_row.
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
                log.warning("%s: %d %s left out", paths[0], count, what.replace("_", " "))

    def _joined(self) -> dict:
        if self._index is None:
            self._index = index.cached(self._paths, self._kind, self._build)
        return self._index

    def _build(self, write) -> None:
        bad_images, bad_texts = [], []

        def each(spans, parse, bad):
            for row in range(len(spans)):
                try:
                    parsed = parse(row)
                except BadRecord:
                    bad.append(row)  # told again, with its reason, when the row is asked for
                    continue
                if parsed is not None:
                    yield row, parsed

        arrays = index.join(
            each(self._images, self._image_id, bad_images),
            each(self._texts, lambda row: self._text_row(row)[1], bad_texts),
        )
        for name, numbers in {**arrays, "bad_images": bad_images, "bad_texts": bad_texts}.items():
            write(name, numbers)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_index": None}

    def __len__(self) -> int:
        return sum(len(self._joined()[name]) for name in ("images", "bad_images", "bad_texts"))

    def _get(self, position: int) -> Record:
        arrays = self._joined()
        if position < len(arrays["images"]):
            start, end = arrays["starts"][position : position + 2]
            texts = [self._text_row(int(row)) for row in arrays["texts"][start:end]]
            return self._record(int(arrays["images"][position]), texts)
        position -= len(arrays["images"])
        if position < len(arrays["bad_images"]):
            self._image_id(int(arrays["bad_images"][position]))
        else:
            self._text_row(int(arrays["bad_texts"][position - len(arrays["bad_images"])]))
        raise AssertionError("a row that was bad is not any more")


def chinese_clip_text(spans: index.Spans, row: int) -> tuple:
    """(text, ids of its images) of a row of `*_texts.jsonl`."""
    source, line = rows.line(spans, row)
    parsed = rows.json_object(line, source)
    ids = parsed.get("image_ids")
    if not isinstance(ids, list) or not ids:
        raise BadRecord(source, '"image_ids" is no list of ids')
    ids = [rows.identity(image_id, '"image_ids"', source) for image_id in ids]
    return rows.text(parsed.get("text"), '"text"', source), ids


class ChineseClipReader(JoinedReader):
    r"""Chinese-CLIP's layout: a record per image, with all its captions.

    imgs: `*_imgs.tsv` with rows `id \t base64`. texts: `*_texts.jsonl` with {"text_id", "text",
    "image_ids"}. `counts` says what was left out: images without text, repeated images, and texts
    that name images which are not there.
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

    def _text_row(self, row: int) -> tuple:
        return chinese_clip_text(self._texts, row)

    def _record(self, row: int, texts: list) -> Record:
        source, line = rows.line(self._images, row)
        image_id = self._image_id(row)
        columns = line.split(b"\t")
        if len(columns) != 2:
            raise BadRecord(source, f"{len(columns)} columns, expected image id and base64")
        captions = tuple(text for text, ids in texts if image_id in ids)
        return Record(image_id, rows.from_base64(columns[1], source), captions, (), source)
