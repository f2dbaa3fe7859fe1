"""A piece of a set, embedded: records in, vectors and what is said of each row out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ernie_vil2.data.arrays import Array, Floats
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.jobs.lines import json_line, ledger_line, text_file
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.packages import needed
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.embedding.sources import PictureFolder
from ernie_vil2.errors import UserError

if TYPE_CHECKING:
    from ernie_vil2.serving.predictor import Predictor

ROWS, BAD, COUNTS = "rows.parquet", "bad_records.jsonl", "counts.json"
VECTORS = {"image": "img_emb", "text": "text_emb"}  # tower -> as clip-retrieval calls its vectors


@dataclass(frozen=True)
class Model:
    """An exported model, which each process opens once; arguments of `Predictor`."""

    folder: str
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 32

    def predictor(self) -> Predictor:
        process = os.getpid()
        if (self, process) not in _opened:
            from ernie_vil2.serving.predictor import Predictor

            # One at a time. Those that the parent of a fork has opened stay: to destroy them in the
            # child, Paddle 3 waits for threads that only the parent has.
            for other in [key for key in _opened if key[1] == process]:
                del _opened[other]
            _opened[self, process] = Predictor(
                self.folder, self.precision, self.device, self.threads, self.batch_size
            )
        return _opened[self, process]


# by model and process; from piece to piece, of which Ray sends each with a `Model` of its own
_opened: dict[tuple[Model, int], Predictor] = {}


class Row(NamedTuple):
    """A row of all files of a shard.

    Attributes:
        image_path: of the picture's file; in a data set the record's id.
        caption: the text that was embedded; None: none was.
        key: the record's id.
        caption_number: of the record's captions, from 0; 0 where none was embedded.
        record: the record's number in the set, from 0.
        source: its "file:row", or the picture's path.
    """

    image_path: str
    caption: str | None
    key: str
    caption_number: int
    record: int
    source: str


@dataclass
class _Embedded:
    """What is there of a piece: rows, and of each the number of its picture among the vectors."""

    rows: list[Row] = field(default_factory=list)
    picture_of_row: list[int] = field(default_factory=list)
    vectors: list[Floats] = field(default_factory=list)  # of pictures, [B, D] each
    pixels: list[Array] = field(default_factory=list)  # of pictures that wait for the model
    pictures: int = 0


@dataclass(frozen=True)
class EmbedPiece:
    """Writes vectors in float32, a table of their rows, and a ledger of the bad records.

    The same pictures always go through the model together, since how many do decides a vector's
    last bits (the number of threads does not).

    Attributes:
        towers: of "image" and "text". With both, or texts alone, each caption has a row, with the
            picture's vector in each of them; with images alone each record has one.
    """

    source: Source
    model: Model
    towers: Sequence[str]

    def __call__(self, piece: range, folder: Path) -> None:
        predictor, made, bad = self.model.predictor(), _Embedded(), 0
        with text_file(folder / BAD) as ledger:
            for number, record, pixels in self._decoded(piece):
                reason = _lack(record, self.towers, pixels)
                if reason is not None or isinstance(record, BadRecord):
                    bad += 1
                    ledger.write(ledger_line(number, record.source, reason))
                    continue
                self._add(made, number, record)
                if isinstance(pixels, np.ndarray):
                    made.pixels.append(pixels)
                if len(made.pixels) == self.model.batch_size:
                    self._run(made)
        vectors = {}
        if "image" in self.towers:
            self._run(made)
            empty = np.empty([0, predictor.embed_dim], np.float32)
            vectors["image"] = np.concatenate([empty, *made.vectors])[made.picture_of_row]
        if "text" in self.towers:
            vectors["text"] = predictor.encode_text([str(row.caption) for row in made.rows])
        for tower, of_tower in vectors.items():
            self._check(of_tower, made.rows)
            np.save(folder / f"{VECTORS[tower]}.npy", of_tower)
        _write_rows(folder / ROWS, made.rows, self.towers)
        largest = {tower: float(np.abs(v).max(initial=0)) for tower, v in vectors.items()}
        with text_file(folder / COUNTS) as file:
            file.write(json_line({"rows": len(made.rows), "bad": bad, "largest": largest}))

    def _check(self, vectors: Floats, rows: Sequence[Row]) -> None:
        """Raise UserError for a vector that no search could take."""
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            raise UserError(
                f"{rows[wrong[0]].source}: its vector in {self.model.precision} is not finite, and "
                f"{len(wrong) - 1} more are not: use --precision fp32, or mend the model"
            )

    def _run(self, made: _Embedded) -> None:
        if made.pixels:
            made.vectors.append(self.model.predictor().embed_pixels(np.stack(made.pixels)))
            made.pixels.clear()

    def _add(self, made: _Embedded, number: int, record: Record) -> None:
        in_folder = isinstance(self.source.reader, PictureFolder)
        path = record.source if in_folder else record.id
        captions: Sequence[str | None] = record.captions if "text" in self.towers else [None]
        for place, caption in enumerate(captions):
            made.rows.append(Row(path, caption, record.id, place, number, record.source))
            made.picture_of_row.append(made.pictures)
        made.pictures += 1

    def _decoded(
        self, piece: range
    ) -> Iterator[tuple[int, Record | BadRecord, Array | ImageError | None]]:
        """(number, record, its pixels or why there are none) in order.

        One thread reads and others decode what comes next while the model is at work.
        """
        transform = self.model.predictor().transform

        def decode(data: bytes) -> Array | ImageError:
            try:
                return transform(data)
            except ImageError as error:
                return error

        def read() -> tuple[int, Record | BadRecord, Future[Any] | None] | None:
            found = next(records, None)
            if found is None:
                return None
            number, record = found
            wanted = "image" in self.towers and isinstance(record, Record) and record.image
            return number, record, decoders.submit(decode, wanted) if wanted else None

        records = iter(self.source.records(piece))
        with ThreadPoolExecutor(self.model.threads) as decoders, ThreadPoolExecutor(1) as reader:
            ahead = deque(reader.submit(read) for _ in range(2 * self.model.batch_size))
            while (found := ahead.popleft().result()) is not None:
                ahead.append(reader.submit(read))
                number, record, pixels = found
                yield number, record, None if pixels is None else pixels.result()


def _lack(record: Record | BadRecord, towers: Sequence[str], pixels: object) -> str | None:
    """Why a record has no row; None: it has."""
    if isinstance(record, BadRecord):
        return record.reason
    if isinstance(pixels, ImageError):
        return f"image: {pixels}"
    if "image" in towers and not record.image:
        return "no picture: --texts embeds it"
    if "text" in towers and not record.captions:
        return "no caption: --images embeds it"
    return None


def columns(towers: Sequence[str]) -> dict[str, str]:
    """Names and types of a shard's table: clip-retrieval's first, then our own."""
    kinds = {"image_path": "string", "caption": "string", "key": "string"}
    kinds |= {"caption_number": "int32", "record": "int64", "source": "string"}
    of_tower = {"image_path": "image", "caption": "text", "caption_number": "text"}
    return {name: kind for name, kind in kinds.items() if of_tower.get(name, towers[0]) in towers}


def _write_rows(path: Path, rows: Sequence[Row], towers: Sequence[str]) -> None:
    pa = needed("pyarrow", "a table of embeddings")
    needed("pyarrow.parquet", "a table of embeddings")
    values = {}
    for name, kind in columns(towers).items():
        column = [getattr(row, name) for row in rows]
        if kind == "string":  # a file's name may be no UTF-8
            column = [text.encode(errors="backslashreplace").decode() for text in column]
        values[name] = pa.array(column, kind)
    pa.parquet.write_table(pa.table(values), path)
