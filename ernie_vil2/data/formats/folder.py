"""An image folder and a JSONL file that names its images."""

from __future__ import annotations

import os
from typing import Any

from ernie_vil2.data.formats import rows, spans
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import Record

_FIELDS = ("image", "caption", "captions", "tags", "id")  # what a row has beside further texts


class FolderReader(Reader):
    """A folder of images and a JSONL file.

    Each line: {"image": path within root, "captions": [...] or "caption": "...", "tags": [...],
    "id": ...}; tags and id may be missing, the id is then the path. No path may leave root, not by
    a symbolic link either. Further fields that are strings, or lists of them, are texts by key.
    """

    def __init__(self, root: str, jsonl: str):
        self._root = rows.folder(root)
        self._rows = spans.lines(rows.file(jsonl))
        rows.refuse_empty(self, jsonl)

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, position: int) -> tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """Source, row, captions and tags."""
        source, line = rows.line(self._rows, position)
        row = rows.json_object(line, source)
        captions = row["captions"] if "captions" in row else [row.get("caption")]
        captions = rows.texts(captions, "captions", source, self.least_captions)
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
            texts=rows.keyed_texts(row, _FIELDS),
        )

    def texts(self, position: int) -> tuple[str, ...]:
        """What a record says, its image not read: captions and tags."""
        _, _, captions, tags = self._row(position)
        return captions + tags
