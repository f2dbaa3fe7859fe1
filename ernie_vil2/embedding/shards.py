"""Shards of vectors in clip-retrieval's layout: rows of all pieces, in numbers of fewer bytes.

    img_emb/img_emb_0.npy  text_emb/text_emb_0.npy  metadata/metadata_0.parquet

Row n of each is of one thing. The numbers of shards have leading zeros, so that the names sort.
See `clip_inference/writer.py` of https://github.com/rom1504/clip-retrieval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ernie_vil2.data.arrays import Array, Floats
from ernie_vil2.data.jobs.lines import json_line, text_file
from ernie_vil2.data.packages import needed
from ernie_vil2.embedding.piece import ROWS, VECTORS
from ernie_vil2.files import durable

TABLE, ABOUT = "metadata", "shard.json"
DTYPES = ("float32", "float16", "int8")
_LEVELS = 127  # of int8, to each side of 0


def scale_of(largest: float) -> float:
    """What a number of an int8 vector stands for, so that the largest of the set is 127."""
    return float(np.float32(largest or 1.0) / np.float32(_LEVELS))


def reduced(vectors: Floats, dtype: str, scale: float | None) -> Array:
    """Vectors [N, D] in the dtype of a shard; int8: the nearest multiple of `scale`."""
    if scale is None:
        return vectors.astype(dtype)
    return np.clip(np.rint(vectors / np.float32(scale)), -_LEVELS, _LEVELS).astype(np.int8)


def least_cosine(vectors: Floats, stored: Array) -> float:
    """Of a vector with what is stored of it; [N, D] both; 1 for N = 0."""
    one, other = vectors.astype(np.float64), stored.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / norms).min(initial=1.0))


@dataclass(frozen=True)
class WriteShard:
    """Writes the files of a shard, and what is to be said of them.

    Attributes:
        parts: the folders of all pieces.
        ends: of each piece, the row after its last one.
        towers: of which there are vectors.
        dtype: of DTYPES.
        scales: tower -> `scale_of` its vectors, for int8; else empty.
        jsonl: whether to write lines of JSON too.
    """

    parts: Sequence[Path]
    ends: Sequence[int]
    towers: Sequence[str]
    dtype: str
    scales: Mapping[str, float]
    jsonl: bool

    def __call__(self, piece: range, folder: Path) -> None:
        pa = needed("pyarrow", "a table of embeddings")
        parquet = needed("pyarrow.parquet", "a table of embeddings")
        tables = [
            parquet.read_table(part / ROWS).slice(rows.start, len(rows))
            for part, rows in self._slices(piece)
        ]
        # one chunk a column: how rows lie in pieces must not show in the file
        table = pa.concat_tables(tables).combine_chunks()
        parquet.write_table(table, folder / f"{TABLE}.parquet")
        cosines = {tower: self._vectors(tower, piece, table, folder) for tower in self.towers}
        files = sorted(folder.iterdir())
        about = {
            "rows": len(piece),
            "least_cosine": cosines,
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": durable.sha256(path)}
                for path in files
            },
        }
        with text_file(folder / ABOUT) as file:
            file.write(json_line(about))

    def _slices(self, piece: range) -> Iterator[tuple[Path, range]]:
        """(a piece's folder, which of its rows are in the shard)."""
        start = 0
        for part, end in zip(self.parts, self.ends):
            first, last = max(piece.start, start), min(piece.stop, end)
            if first < last:
                yield part, range(first - start, last - start)
            start = end

    def _vectors(self, tower: str, piece: range, table: Any, folder: Path) -> float:
        """Write a tower's vectors; gives the least cosine of a vector and what is written of it."""
        path, least = folder / f"{VECTORS[tower]}.npy", 1.0
        with open(path, "wb") as file:  # part by part, for a shard may be larger than memory
            for part, rows in self._slices(piece):
                vectors = np.load(part / path.name, mmap_mode="r")[rows.start : rows.stop]
                stored = reduced(vectors, self.dtype, self.scales.get(tower))
                if not file.tell():
                    _write_header(file, stored.dtype, (len(piece), stored.shape[1]))
                file.write(stored.tobytes())
                least = min(least, least_cosine(vectors, stored))
        if self.jsonl:
            columns = ["key", "caption"] if tower == "text" else ["key"]
            array = np.load(path, mmap_mode="r")
            _write_lines(path.with_suffix(".jsonl"), table.select(columns), array)
        # rounded down: its last digits are the processor's
        return math.floor(least * 1e6) / 1e6


def _write_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    """What stands before the numbers in a `.npy`."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_lines(path: Path, table: Any, array: Array) -> None:
    """A line a row: its id, the caption of a text, and the numbers of [N, D]."""
    with text_file(path) as file:
        start = 0
        for batch in table.to_batches(max_chunksize=1024):
            for row, numbers in zip(batch.to_pylist(), array[start:]):
                about = {"id": row.pop("key"), **row}
                # the shortest digits that give the same number in this dtype
                listed = ", ".join(numbers.astype(str))
                file.write(f'{json_line(about)[:-2]}, "embedding": [{listed}]}}\n')
            start += len(batch)
