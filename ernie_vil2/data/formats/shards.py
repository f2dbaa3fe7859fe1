"""Shards: tar files of images and texts, as webdataset and img2dataset write them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.files.build import open_files
from ernie_vil2.data.files.opened import OpenFiles
from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.mapped import Column
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.formats.shard_index import shard_index
from ernie_vil2.data.formats.shard_record import ShardRecord
from ernie_vil2.data.formats.shard_scan import IMAGES
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError

KEY = "__key__"  # webdataset's name for the key, for `id_key`
_AT_ONCE = 1 << 24  # bytes; a larger record is read member by member
_MAX_TEXT_BYTES = 1 << 24


class _Index(NamedTuple):
    """Of `shard_index`, what a reader needs."""

    ends: Numbers
    offsets: Column
    faults: Numbers


class ShardsReader(Reader):
    """Tar shards: a record is the members of one key that stand together.

    The key is a member's path up to the first dot of its base name. An image is `.jpg`, `.jpeg`,
    `.png`, `.webp`, `.gif` or `.bmp`; `.json` holds an object with captions, tags and id, `.txt` a
    caption, which counts where the object has none. Members of other kinds are left alone.

    Args:
        path: a tar, a pattern such as "data/*.tar", or a list of these.
        caption_key: of the JSON: a string, or a list of them; "captions" stands for "caption" too.
        tags_key: of the JSON: a list of strings.
        id_key: of the JSON: a string or an integer; "__key__": the key is the id. A record without
            it has its place as id, "path.tar:key".
    """

    def __init__(
        self,
        path: Any,
        caption_key: str = "caption",
        tags_key: str = "tags",
        id_key: str = "id",
    ):
        self._caption_key = _json_key("caption_key", caption_key)
        self._tags_key = _json_key("tags_key", tags_key)
        self._id_key = _json_key("id_key", id_key)
        self._files = open_files(path)
        self._opened = OpenFiles(self._files)
        self._loaded: _Index | None = None
        rows.refuse_empty(self, ", ".join(self._files.names[:3]))
        if len(self._index.faults) == len(self):
            self._refuse()

    def _refuse(self) -> None:
        """Raise UserError, as no record can be read."""
        try:
            self._find(0, at_once=False)
        except BadRecord as error:
            raise UserError(f"none of {len(self)} records can be read: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    @property
    def _index(self) -> _Index:
        """Read once in each process."""
        if self._loaded is None:
            arrays = shard_index(self._files)
            # plain arrays, as indexing a memmap takes long
            ends, faults = map(np.asarray, map(arrays.get, ("ends", "faults")))
            self._loaded = _Index(ends, arrays.column("offsets"), faults.reshape(-1, 2))
        return self._loaded

    def __len__(self) -> int:
        return int(self._index.ends[-1])

    @property
    def shard_lengths(self) -> Numbers:
        return np.diff(self._index.ends, prepend=0)

    def prefetch(self, positions: Numbers) -> None:
        shards = np.searchsorted(self._index.ends, positions, side="right")
        self._files.ahead(dict.fromkeys(map(int, shards)))

    def _find(self, position: int, at_once: bool) -> ShardRecord:
        """The members of a record.

        Args:
            at_once: all of them shall be read, so that one read of the file is best.
        """
        ends, offsets, faults = self._index
        number = int(np.searchsorted(ends, position, side="right"))
        start, end = map(int, offsets[position + number : position + number + 2])
        known = int(np.searchsorted(faults[:, 0], position))
        fault = None
        if known < len(faults) and faults[known, 0] == position:
            fault = int(faults[known, 1])
        name = self._files.names[number]
        try:
            block = b""
            if at_once and fault is None and end - start <= _AT_ONCE:
                block = self._opened.read(number, start, end - start)

            def read(offset: int, count: int) -> bytes:
                if start <= offset and offset + count <= start + len(block):
                    return block[offset - start : offset - start + count]
                return self._opened.read(number, offset, count)

            return ShardRecord(name, read, start, end, fault)
        except (OSError, UserError) as error:  # one line of the ledger for the whole shard
            reason = getattr(error, "strerror", None) or error
            raise BadRecord(name, f"cannot be read: {reason}") from error

    def find(self, source: str) -> int | None:
        """As of any reader; the names in one shard's tar are read."""
        ends = self._index.ends.tolist()
        for name, start, end in zip(self._files.names, [0, *ends], ends):
            if source == name:  # which could not be read as a whole
                return start if start < end else None
            if source.startswith(f"{name}:"):
                return next((n for n in range(start, end) if self._source(n) == source), None)
        return None

    def _source(self, position: int) -> str:
        try:
            return self._find(position, at_once=False).source
        except BadRecord as error:
            return error.source

    def _get(self, position: int) -> Record:
        found = self._find(position, at_once=True)
        row, captions, tags = self._says(found)
        image_id = found.key if self._id_key == KEY else row.get(self._id_key)
        kind = next((kind for kind in IMAGES if kind in found.members), None)
        if kind is None:
            raise BadRecord(found.source, f"no image: expected .{', .'.join(IMAGES)}")
        image = found.content(kind, rows.MAX_IMAGE_BYTES)
        if not image:
            raise BadRecord(found.source, f"image .{kind} is empty")
        return Record(
            id=found.source if image_id is None else rows.identity(image_id, "id", found.source),
            image=image,
            captions=captions,
            tags=tags,
            source=found.source,
            texts=rows.keyed_texts(row, self._fields),
        )

    @property
    def _fields(self) -> tuple[str, ...]:
        """Keys of the JSON that have a meaning of their own."""
        return self._caption_key, "captions", self._tags_key, self._id_key, "source"

    def texts(self, position: int) -> tuple[str, ...]:
        """What a record says, its image not read: captions and tags."""
        _, captions, tags = self._says(self._find(position, at_once=False))
        return captions + tags

    def _says(self, found: ShardRecord) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """The JSON, the captions and the tags of a record."""
        source, row = found.source, {}
        if "json" in found.members:
            row = rows.json_object(found.content("json", _MAX_TEXT_BYTES), source)
        captions = self._captions(row, source)
        if not captions and "txt" in found.members:
            text = rows.decode(found.content("txt", _MAX_TEXT_BYTES), source)
            captions = (rows.text(text, ".txt", source),) if text.strip() else ()
        if len(captions) < self.least_captions:
            raise BadRecord(source, f'no caption, neither in .txt nor as "{self._caption_key}"')
        tags = rows.texts(row.get(self._tags_key) or [], f'"{self._tags_key}"', source)
        return row, captions, tags

    def _captions(self, row: dict[str, Any], source: str) -> tuple[str, ...]:
        """Those of the JSON, if any."""
        key = self._caption_key
        if key == "caption" and row.get(key) is None:
            key = "captions"
        value = row.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ()
        what = f'"{key}"'
        if isinstance(value, list):
            return rows.texts(value, what, source)
        return (rows.text(value, what, source),)


def _json_key(option: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{option} is {value!r}: give the name of a key of the JSON")
    return value
