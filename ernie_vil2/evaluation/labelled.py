"""Which class a record is of, by what it says under a key."""

from __future__ import annotations

import re
from collections.abc import Collection

from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError


class LabelOf:
    """From a record to the label of its class; raises BadRecord where it has none, or another's.

    Args:
        key: of a record's further texts, such as the folder of `class_folders` or a field of a
            shard's JSON; "caption", the first; "tags", the last, or "tags.0" by number.
        known: the labels that there are; None: any.
        where: what names them, for messages.
    """

    def __init__(self, key: str = "class", known: Collection[str] | None = None, where: str = ""):
        tag = re.fullmatch(r"tags(?:\.(-?\d{1,3}))?", key)
        if key.startswith("tags") and not tag:
            raise UserError(
                f"label {key}: expected tags, for the last one, or tags.0 for the first"
            )
        self.key, self.where = key, where
        self.known = None if known is None else frozenset(known)
        self._tag = int(tag[1] or -1) if tag else None

    def __call__(self, record: Record) -> str:
        label = self._label(record)
        if self.known is not None and label not in self.known:
            raise BadRecord(
                record.source,
                f"its {self.key} is {label[:60]}, which {self.where} does not name",
            )
        return label

    def _label(self, record: Record) -> str:
        if self._tag is not None:
            found = record.tags[self._tag :][:1]
            if self._tag >= len(record.tags) or self._tag < -len(record.tags):
                found = ()
        else:
            found = record.texts_of(self.key)
        if not found:
            has = ", ".join(["caption", "tags", *record.texts])
            raise BadRecord(record.source, f"no {self.key}, which says its class; it has {has}")
        if len(found) > 1 and self.key != "caption":
            raise BadRecord(record.source, f"{self.key} names {len(found)} classes: expected one")
        return found[0]
