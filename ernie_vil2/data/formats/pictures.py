"""Records from columns: which column holds pictures, captions, tags and ids, and what a row says.

A picture is bytes, or, as Hugging Face's data sets have it, a struct of which "bytes" is a field.
Captions are texts or lists of them, in one column or several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.columns import ColumnFiles
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.packages import needed
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError, did_you_mean

# Where a column is not named: the first of these that is there with a type that fits. img2dataset
# calls them jpg, caption (and txt), key; Hugging Face's image folders and most sets image, text.
_USUAL = {
    "image": ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes"),
    "caption": ("caption", "captions", "text", "txt", "TEXT", "sentences"),
    "tags": ("tags",),
    "id": ("image_id", "id", "key", "__key__", "img_id"),
}
_FITS = {
    "image": ("bytes", "picture"),
    "caption": ("text", "texts"),
    "tags": ("text", "texts", "nothing"),
    "id": ("text", "number"),
}
_EXPECTED = {
    "image": "bytes, or a struct with the field bytes",
    "caption": "text or a list of texts",
    "tags": "text or a list of texts",
    "id": "text or whole numbers",
}
# how many rows, and the texts of one, where a row that is no record raises BadRecord
TextRows = tuple[int, Callable[[int], tuple[str, ...]]]
_TAG_SEPARATOR = "|"  # of tags in one text, as the official format has them


class Columns(NamedTuple):
    """Names of the columns of each kind; of captions there may be several, of the others one."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return _different(*self.images, *self.captions, *self.tags, *self.ids)

    @property
    def texts(self) -> tuple[str, ...]:
        return _different(*self.captions, *self.tags)


def _different(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _kind(type_: Any) -> str:
    """What a column of this type of pyarrow's can hold: a word of _FITS, or "other"."""
    types = needed("pyarrow", "a file of columns").types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_binary(type_) or types.is_large_binary(type_):
        return "bytes"
    if types.is_string(type_) or types.is_large_string(type_):
        return "text"
    if types.is_integer(type_):
        return "number"
    if types.is_null(type_):
        return "nothing"
    if types.is_struct(type_):
        kinds = {type_.field(i).name: _kind(type_.field(i).type) for i in range(type_.num_fields)}
        return "picture" if kinds.get("bytes") == "bytes" else "other"
    if types.is_list(type_) or types.is_large_list(type_):
        return "texts" if _kind(type_.value_type) == "text" else "other"
    return "other"


def choose(path: str, schema: Any, wanted: Mapping[str, Any], needs: Sequence[str]) -> Columns:
    """The columns to read.

    Args:
        path: of the file, for messages.
        schema: pyarrow's, of the file.
        wanted: the user's "image", "caption", "tags" and "id", None where one is to be found;
            "caption" may be a list.
        needs: of these, what there must be.

    Raises:
        UserError: one that is named is not there or of another type, or none is found.
    """
    chosen = []
    for option in ("image", "caption", "tags", "id"):
        names = wanted.get(option)
        if isinstance(names, (list, tuple)) and option == "caption":
            if not names:
                raise UserError("caption is an empty list: name at least one column")
        elif names is not None:
            names = [names]
        elif names := _usual(schema, option):
            names = names[:1]
        elif option in needs:
            known = ", ".join(schema.names)
            raise UserError(
                f"{path}: none of its columns is known as {option}: name one with {option}: "
                f"NAME; it has {known}"
            )
        for name in names:
            _check_column(path, schema, option, name)
        chosen.append(_different(*names))
    return Columns(*chosen)


def _usual(schema: Any, option: str) -> list[str]:
    """The columns that a user who names none is likely to mean, the likeliest first."""
    there = [name for name in schema.names if schema.names.count(name) == 1]
    return [
        name
        for name in _USUAL[option]
        if name in there and _kind(schema.field(name).type) in _FITS[option]
    ]


def _check_column(path: str, schema: Any, option: str, name: Any) -> None:
    if not isinstance(name, str):
        raise UserError(f"{option} is {name!r}: give the name of a column")
    if name not in schema.names:
        hint = did_you_mean(name, schema.names)
        raise UserError(f'{path} has no column "{name}", which is to be the {option}{hint}')
    if schema.names.count(name) > 1:
        raise UserError(f'{path} has more than one column "{name}"')
    type_ = schema.field(name).type
    if _kind(type_) not in _FITS[option]:
        raise UserError(
            f'{path}: column "{name}", which is to be the {option}, is of type {type_}: expected '
            f"{_EXPECTED[option]}"
        )


def check(path: str, schema: Any, columns: Columns) -> None:
    """Raise UserError unless the file has the columns, of types that fit."""
    for option, names in zip(("image", "caption", "tags", "id"), columns):
        for name in names:
            _check_column(path, schema, option, name)


class ColumnReader(Reader):
    """A record per row of columnar files.

    The id is the row's place where no column holds one.

    Args:
        files: their rows.
        columns: what to read of them.
    """

    def __init__(self, files: ColumnFiles, columns: Columns):
        self._files, self._columns = files, columns
        rows.refuse_empty(self, ", ".join(files.paths))

    def __len__(self) -> int:
        return len(self._files)

    @property
    def shard_lengths(self) -> Numbers:
        """Of what is decoded together."""
        return self._files.lengths

    def find(self, source: str) -> int | None:
        return self._files.find(source)

    def _get(self, position: int) -> Record:
        names = self._columns
        source, values = self._files.values(position, names.all)
        row = dict(zip(names.all, values))
        (image,) = names.images
        ids = [rows.identity(row[name], _quoted(name), source) for name in names.ids]
        return Record(
            id=ids[0] if ids else source,
            image=picture(row[image], image, source),
            captions=self._captions(row, source),
            tags=self._tags(row, source),
            source=source,
            texts=rows.keyed_texts({name: row[name] for name in names.captions}, ()),
        )

    def _captions(self, row: dict[str, Any], source: str) -> tuple[str, ...]:
        """Those of all columns; one that is null counts only where it is the only column."""
        found: list[Any] = []
        for name in self._columns.captions:
            value = row[name]
            if value is not None:
                texts = value if isinstance(value, list) else [value]
                found += rows.texts(texts, _quoted(name), source)
        if len(found) < self.least_captions:
            what = " and ".join(map(_quoted, self._columns.captions))
            raise BadRecord(source, f"{what}: no caption")
        return tuple(found)

    def _tags(self, row: dict[str, Any], source: str) -> tuple[str, ...]:
        for name in self._columns.tags:
            value = row[name] or []
            if isinstance(value, str):
                value = [tag for tag in value.split(_TAG_SEPARATOR) if tag.strip()]
            return rows.texts(value, _quoted(name), source)
        return ()

    def texts(self, position: int) -> tuple[str, ...]:
        """What a record says, its image not read: captions and tags."""
        names = self._columns.texts
        source, values = self._files.values(position, names)
        row = dict(zip(names, values))
        return self._captions(row, source) + self._tags(row, source)


def _quoted(name: str) -> str:
    return f'"{name}"'


def picture(value: Any, name: str, source: str) -> bytes:
    """The encoded file in a row's column of pictures."""
    path = None
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
    if value is None:
        only = f" but for a path, {path}: the file itself must be in the column" if path else ""
        raise BadRecord(source, f'"{name}" is missing{only}')
    if not value:
        raise BadRecord(source, f'"{name}" is empty')
    if len(value) > rows.MAX_IMAGE_BYTES:
        raise BadRecord(source, f'"{name}" has {len(value)} bytes, at most {rows.MAX_IMAGE_BYTES}')
    return bytes(value)
