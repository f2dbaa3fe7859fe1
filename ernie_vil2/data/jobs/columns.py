"""What is counted of each record, kept as arrays so that quantiles are exact and memory is small.

A piece writes one array for each column; a column of all records is read alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.jobs.hashes import digest
from ernie_vil2.data.jobs.lines import ledger_line, text_file
from ernie_vil2.data.jobs.picture import read_header
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.data.tokenize import CJK, Tokenizer

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")  # by their numbers in "format"
LANGUAGES = ("zh", "en", "other")  # by their numbers in "language"
OF_RECORDS = ("captions", "tags")
OF_PICTURES = ("width", "height", "bytes", "format")
OF_TEXTS = ("characters", "tokens", "language")
_ASIAN = re.compile("[\u3040-\u30ff\uac00-\ud7af]")  # kana and hangul, which stand among ideographs
_CHINESE = 0.2  # of a text's letters: a name in Latin letters does not make it English


def language(text: str) -> int:
    """Of a text by its letters alone, a number of LANGUAGES.

    "zh": a fifth or more are ideographs, and there is no kana or hangul; "en": more than half are
    ASCII, whatever language of Europe that is; "other".
    """
    letters = [char for char in text if char.isalpha()]
    if not letters or _ASIAN.search(text):
        return 2
    ideographs = sum(CJK.match(char) is not None for char in letters)
    if ideographs >= _CHINESE * len(letters):
        return 0
    return 1 if 2 * sum(char.isascii() for char in letters) > len(letters) else 2


@dataclass(frozen=True)
class Measure:
    """Writes the columns of some records, and a line for each that is bad.

    Attributes:
        vocab_file, lowercase: of the tokenizer that counts tokens; None: they are not counted.
    """

    source: Source
    vocab_file: str | None
    lowercase: bool = True

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        return Tokenizer(self.vocab_file, lowercase=self.lowercase) if self.vocab_file else None

    def __call__(self, piece: range, folder: Path) -> None:
        rows = _Rows()
        with text_file(folder / "bad.jsonl") as file:
            for number, record in self.source.records(piece):
                try:
                    if isinstance(record, BadRecord):
                        raise record
                    self._add(rows, number, record)
                except (BadRecord, ImageError) as error:
                    reason = error.reason if isinstance(error, BadRecord) else f"image: {error}"
                    file.write(ledger_line(number, record.source, reason))
        for name, values in rows.columns.items():
            np.save(folder / f"{name}.npy", np.array(values, np.int64))
        for kind, digests in rows.digests.items():
            both = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).astype(np.uint64)
            np.save(folder / f"{kind}_hashes.npy", both)

    def _add(self, rows: _Rows, number: int, record: Record) -> None:
        if record.image:  # else a text alone, in an evaluation
            header = read_header(record.image)
            rows.columns["width"].append(header.width)
            rows.columns["height"].append(header.height)
            rows.columns["bytes"].append(len(record.image))
            rows.columns["format"].append(FORMATS.index(header.format))
            rows.columns["numbers"].append(number)
            texts = [text.encode(errors="surrogatepass") for text in record.captions]
            rows.digests["image"].append(digest(record.image))
            rows.digests["pair"].append(digest(record.image, *texts))
        rows.columns["captions"].append(len(record.captions))
        rows.columns["tags"].append(len(record.tags))
        for text in record.captions:
            rows.columns["characters"].append(len(text))
            rows.columns["language"].append(language(text))
            if self._tokenizer:
                rows.columns["tokens"].append(self._tokenizer.count(text))


@dataclass
class _Rows:
    columns: dict[str, list[int]] = field(
        default_factory=lambda: {
            name: [] for name in ("numbers", *OF_RECORDS, *OF_PICTURES, *OF_TEXTS)
        }
    )
    digests: dict[str, list[bytes]] = field(default_factory=lambda: {"image": [], "pair": []})


def column(parts: Sequence[Path], name: str) -> NDArray[Any]:
    """Of all records, in their order."""
    return np.concatenate([np.load(part / f"{name}.npy") for part in parts])
