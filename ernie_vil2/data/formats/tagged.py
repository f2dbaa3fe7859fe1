"""A set of any format, with the tags of a file that `tools/prepare_data.py tag` wrote."""

from __future__ import annotations

import bisect
import dataclasses
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats import rows, spans
from ernie_vil2.data.formats.index import Arrays, cached
from ernie_vil2.data.formats.mapped import Write
from ernie_vil2.data.formats.mixture import MixtureReader
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.keys import key
from ernie_vil2.data.orders import Order, Shuffle
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError


def tagged(reader: Reader, tags: TagsFile) -> Reader:
    """The records of `reader`, each with its tags in `tags`; a mixture stays one."""
    if isinstance(reader, MixtureReader):  # which puts the source's name before an id
        return reader.each(lambda name, source: TaggedReader(source, tags, f"{name}/"))
    return TaggedReader(reader, tags)


class TaggedReader(Reader):
    """The records of `reader`, whose tags are those of a file instead; a record without any there
    has none.

    Args:
        reader: of any format but a mixture.
        tags: looked up by the record's id.
        prefix: what stands before the ids in the file.
    """

    def __init__(self, reader: Reader, tags: TagsFile, prefix: str = ""):
        self._reader, self._tags, self._prefix = reader, tags, prefix

    def __len__(self) -> int:
        return len(self._reader)

    def _get(self, position: int) -> Record:
        record = self._reader[position]
        tags = self._tags.of(self._prefix + record.id) if record.id else ()
        return dataclasses.replace(record, tags=tags)

    @property
    def shard_lengths(self) -> Numbers | None:
        return self._reader.shard_lengths

    def order(self, seed: int, shuffle: Shuffle) -> Order:
        return self._reader.order(seed, shuffle)

    def prefetch(self, positions: Numbers) -> None:
        self._reader.prefetch(positions)

    def find(self, source: str) -> int | None:
        return self._reader.find(source)

    def evaluation(self) -> Reader:
        return TaggedReader(self._reader.evaluation(), self._tags, self._prefix)


class TagsFile:
    """Lines {"id", "tags"}, found by id through an index. Picklable; safe after fork.

    Args:
        path: a file, a pattern, or a list of these.

    Raises:
        UserError: a missing file, a line that is something else.
    """

    def __init__(self, path: str | Sequence[str]):
        self._paths = rows.files(path)
        self._files = [spans.lines(path) for path in self._paths]
        self._ends = np.cumsum([len(file) for file in self._files])
        self._index: Arrays | None = None
        self._arrays()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    def of(self, record_id: str) -> tuple[str, ...]:
        """The tags of all lines with that id, each once, in the order of the lines."""
        found: dict[str, None] = {}
        for row in self._rows(key(record_id)):
            line_id, tags = self._line(int(row))
            if line_id == record_id:  # not one whose key happens to be the same
                found.update(dict.fromkeys(tags))
        return tuple(found)

    def _rows(self, wanted: int) -> Numbers:
        keys, numbers = map(self._arrays().column, ("keys", "rows"))
        start = bisect.bisect_left(keys, wanted)
        return numbers[start : bisect.bisect_right(keys, wanted, start)]

    def _arrays(self) -> Arrays:
        """ "keys" int64 [N], sorted, and the "rows" that they are of; files' rows one after
        another."""
        if self._index is None:
            self._index = cached(self._paths, "tags", self._build)
        return self._index

    def _build(self, write: Write) -> None:
        keys = array("q")
        try:
            for row in range(int(self._ends[-1])):
                keys.append(key(self._line(row)[0]))
        except BadRecord as error:
            raise UserError(
                f'{error}: expected lines {{"id": ..., "tags": [...]}} in a tags_file'
            ) from error
        numbers = np.array(keys, np.int64)
        order = np.argsort(numbers, kind="stable")
        write("keys", numbers[order])
        write("rows", order)

    def _line(self, row: int) -> tuple[str, tuple[str, ...]]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        file = self._files[number]
        return tags_row(file, row - int(self._ends[number]) + len(file))


def tags_row(file: spans.Spans, row: int) -> tuple[str, tuple[str, ...]]:
    """The id and the tags of a line. Raises BadRecord."""
    source, line = rows.line(file, row)
    parsed = rows.json_object(line, source)
    record_id = rows.identity(parsed.get("id"), '"id"', source)
    return record_id, rows.texts(parsed.get("tags"), '"tags"', source)
