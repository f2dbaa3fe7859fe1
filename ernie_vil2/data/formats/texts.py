"""The texts of data files, for a vocabulary: what training would read, without the images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

from ernie_vil2.data.files.build import open_files
from ernie_vil2.data.formats import chinese_clip, coco, rows
from ernie_vil2.data.formats.arrow import arrow_texts
from ernie_vil2.data.formats.folder import FolderReader
from ernie_vil2.data.formats.lmdb import pair_texts
from ernie_vil2.data.formats.parquet import parquet_texts
from ernie_vil2.data.formats.pictures import TextRows
from ernie_vil2.data.formats.shard_index import shard_index
from ernie_vil2.data.formats.shards import ShardsReader
from ernie_vil2.data.formats.spans import lines
from ernie_vil2.data.formats.tagged import tags_row
from ernie_vil2.data.formats.tsv import tsv_texts
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_BLOCK = 1 << 20  # characters of prose at a time
_TRIED = 1000  # rows, after which a file without a single record counts as having none


def read_texts(path: str) -> Iterator[str]:
    """The captions and tags of a data file, or plain text.

    By the name: `.tsv`, the official format, and texts in columns behind the tags; `.jsonl`, rows
    of an image folder, Chinese-CLIP's texts, or tags; `.json`, COCO's captions or Karpathy's
    splits; `.tar`, a shard; `.parquet` and `.arrow`, their columns of captions and tags; `.mdb`,
    the pairs of Chinese-CLIP's LMDB; `.txt`, plain text in UTF-8. Rows that are no records are left
    out and counted in a warning.

    Raises:
        UserError: it is no such file, or holds no record at all.
    """
    path = rows.file(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".txt":
        return _prose(path)
    if suffix not in _READERS:
        raise UserError(
            f"{path}: its name does not say what it holds: expected {', '.join(_READERS)}, or .txt "
            "for plain text"
        )
    return _of_rows(path, *_READERS[suffix](path))


def _of_rows(path: str, count: int, texts_of: Callable[[int], tuple[str, ...]]) -> Iterator[str]:
    """The texts of `count` rows, where texts_of(row) raises BadRecord if it is none."""
    bad = 0
    first: BadRecord | None = None
    for row in range(count):
        try:
            yield from texts_of(row)
        except BadRecord as error:
            bad, first = bad + 1, first or error
        if bad == min(count, _TRIED) == row + 1:
            raise UserError(
                f"none of the first {bad} rows of {path} is a record with text: {first}"
            )
    if bad:
        log.warning("%s: %d of %d rows are no records: %s", path, bad, count, first)


def _tar(path: str) -> TextRows:
    if not shard_index(open_files(path))["ends"][-1]:
        return 0, lambda row: ()  # an empty one among others
    reader = ShardsReader(path)
    return len(reader), reader.texts


def _jsonl(path: str) -> TextRows:
    spans = lines(path)
    for row in range(min(len(spans), _TRIED)):
        try:
            source, line = rows.line(spans, row)
            keys = rows.json_object(line, source)
        except BadRecord:
            continue
        if "image_ids" in keys or "query_text" in keys:
            return len(spans), lambda row: (chinese_clip.chinese_clip_text(spans, row).text,)
        if "image" in keys:
            reader = FolderReader(os.path.dirname(path) or ".", path)
            return len(reader), reader.texts
        if "tags" in keys:
            return len(spans), lambda row: tags_row(spans, row)[1]
        break
    raise UserError(
        f'{path} holds neither rows with "image" and "captions", nor Chinese-CLIP\'s with "text" '
        'and "image_ids", nor tags: plain text goes into a .txt file'
    )


def _json(path: str) -> TextRows:
    images, annotations = coco.coco_arrays(path)
    if len(annotations):
        return len(annotations), lambda row: (coco.coco_text(annotations, row).text,)
    if not len(images):
        raise UserError(
            f'{path} has neither "annotations" nor "images": expected COCO\'s captions or '
            "Karpathy's splits"
        )

    def captions(row: int) -> tuple[str, ...]:
        source, image = rows.element(images, row)
        return coco.karpathy_captions(image, source)

    return len(images), captions


_READERS: dict[str, Callable[[str], TextRows]] = {
    ".tar": _tar,
    ".tsv": tsv_texts,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": parquet_texts,
    ".arrow": arrow_texts,
    ".mdb": pair_texts,
}


def _prose(path: str) -> Iterator[str]:
    """A text file in pieces that end at white space, so that a line may be of any length."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            rest = ""
            for block in iter(lambda: file.read(_BLOCK), ""):
                if "\0" in block:
                    raise UserError(f"{path} is no text: it holds NUL")
                text = rest + block
                end = 1 + max(map(text.rfind, " \n"))
                rest = text[end:]
                if len(rest) > _BLOCK:  # no word, and the tokenizer would not take it for one
                    end, rest = len(text), ""
                yield text[:end]
            yield rest
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: {error.reason}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
