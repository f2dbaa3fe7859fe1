"""The official TSV: a text, an image and perhaps tags in each row."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ernie_vil2.data.formats import rows, spans
from ernie_vil2.data.formats.pictures import TextRows
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError

_LEAST = 3  # columns: text, image id, base64; then perhaps tags
_LOOKED_AT = 100  # rows that say how many columns a file's records have


class TsvReader(Reader):
    r"""Rows `text \t image id \t base64 [\t tags]`, the official format, and maybe more texts.

    The base64 may be standard or URL-safe, padded or not. Each row is a record, a blank one a bad
    record.

    Args:
        path: a file, a pattern such as "train-*.tsv", or a list of these.
        tag_separator: what stands between tags.
        texts: the keys of further columns of texts, behind that of the tags; one may be blank.
        ends: read what the official loader reads: however many columns there are, the first is the
            text and the last the image; there are no tags. Equal base64 is one image.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        tag_separator: str = "|",
        texts: Sequence[str] = (),
        ends: bool = False,
    ):
        paths = rows.files(path)
        if not isinstance(tag_separator, str) or not tag_separator:
            raise UserError(f'tag_separator is {tag_separator!r}: give a string, such as "|"')
        if isinstance(texts, str) or not all(isinstance(key, str) and key for key in texts):
            raise UserError(f"texts is {texts!r}: give a list of keys, such as [alt, synthetic]")
        if ends and texts:
            raise UserError("texts names columns that ends does not read: leave one of them out")
        self._separator, self._keys, self._first_and_last = tag_separator, tuple(texts), ends
        self._files = [spans.lines(path) for path in paths]
        self._ends = np.cumsum([len(file) for file in self._files])
        rows.refuse_empty(self, ", ".join(paths))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def find(self, source: str) -> int | None:
        path, row = rows.place(source)
        for file, end in zip(self._files, self._ends.tolist()):
            if file.path == path and 0 <= row < len(file):
                return int(end - len(file) + row)
        return None

    def _columns(self, position: int) -> tuple[str, str, bytes, bytes, str, list[bytes]]:
        """Source, text, image id, base64, tags and more texts; text and tags are decoded."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        file = self._files[number]
        row = position - int(self._ends[number]) + len(file)
        source, line = rows.line(file, row)
        if self._first_and_last:
            return self._two_columns(source, line)
        columns = line.split(b"\t")
        whole = _LEAST + 1 + len(self._keys)
        if len(columns) not in ((whole,) if self._keys else (_LEAST, whole)):
            more = ", ".join(["tags", *self._keys]) if self._keys else "maybe tags"
            raise BadRecord(
                source, f"{len(columns)} columns, expected text, image id, base64 and {more}"
            )
        tags = rows.decode(columns[3], source) if len(columns) > 3 else ""
        text = rows.text(rows.decode(columns[0], source), "text", source)
        return source, text, columns[1], columns[2], tags, columns[4:]

    def _two_columns(
        self, source: str, line: bytes
    ) -> tuple[str, str, bytes, bytes, str, list[bytes]]:
        """As `_columns`; the official loader strips a row before it looks for tabs."""
        columns = rows.decode(line, source).strip().split("\t")
        if len(columns) < 2:
            raise BadRecord(source, "1 column, expected a text first and base64 last")
        text, image = rows.text(columns[0], "text", source), columns[-1].encode()
        return source, text, hashlib.sha1(image).hexdigest().encode(), image, "", []

    def _get(self, position: int) -> Record:
        source, caption, image_id, image, tags, texts = self._columns(position)
        return Record(
            id=rows.text(rows.decode(image_id, source), "image id", source),
            image=rows.from_base64(image, source),
            captions=(caption,),
            tags=tuple(tag.strip() for tag in tags.split(self._separator) if tag.strip()),
            source=source,
            texts=rows.keyed_texts(
                {key: rows.decode(text, source) for key, text in zip(self._keys, texts)}, ()
            ),
        )

    def texts(self, position: int) -> tuple[str, ...]:
        """What a record says, its image not read: the caption, the tags as they stand there, and
        the texts of further columns."""
        source, caption, _, _, tags, texts = self._columns(position)
        return (caption, tags, *(rows.decode(text, source) for text in texts))


def tsv_texts(path: str) -> TextRows:
    """How many rows a file has, and what each says, also in columns behind the tags.

    How many columns a record has, most of the first rows say: a tab within a text of another row
    does not make a text of its base64.
    """
    file = spans.lines(path)
    found: Counter[int] = Counter()
    for row in range(min(len(file), _LOOKED_AT)):
        with contextlib.suppress(BadRecord):
            found[rows.line(file, row)[1].count(b"\t") + 1] += 1
    further = max(0, max(found, key=found.__getitem__, default=0) - _LEAST - 1)
    reader = TsvReader(path, texts=[f"column {number}" for number in range(further)])
    return len(reader), reader.texts
