"""Parquet with the pictures in it, as img2dataset and Hugging Face's data sets write it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.columns import ColumnFiles, Piece, bound, told
from ernie_vil2.data.formats.pictures import ColumnReader, Columns, TextRows, check, choose
from ernie_vil2.data.orders import Order, Shuffle
from ernie_vil2.data.packages import needed

log = logging.getLogger("ernie_vil2")
_PIECE_BYTES = 64 << 20  # decoded; a larger row group is read in parts of so much
_BUFFER = 1 << 20  # of a column's pages that is read ahead, so that no column is read as a whole
_THREADS = 8  # that read the files' ends: each waits for its disk


def _parquet() -> Any:
    return needed("pyarrow.parquet", "data set format parquet")


class ParquetFiles(ColumnFiles):
    """The rows of Parquet files, by row group.

    A row group is what can be decoded alone. One of more than _PIECE_BYTES is cut into parts: to
    come to a part, the rows before it are decoded too, and dropped.
    """

    def __init__(self, paths: Sequence[str], columns: Columns, memory: int):
        self._walk: tuple[Any, Iterator[Any]] | None = None
        with ThreadPoolExecutor(_THREADS) as threads:
            groups = threads.map(lambda path: _groups(path, columns), paths)
            pieces = np.concatenate([_cut(file, found) for file, found in enumerate(groups)])
        super().__init__(paths, pieces[:, :-1], memory)
        self.sizes: Numbers = pieces[:, -1]  # decoded bytes of each piece, about; int64 [P]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_walk": None}

    def _load(self, piece: Piece, names: Sequence[str]) -> tuple[Any, int]:
        if piece.stride:
            table = self._part(piece, names)
        else:
            file = _opened(self.paths[piece.file])
            # threads of pyarrow's own would compete with the other workers
            table = file.read_row_group(piece.group, list(names), use_threads=False)
        return table, table.get_total_buffer_size()

    def _part(self, piece: Piece, names: Sequence[str]) -> Any:
        """A part of a large row group; goes on where the one before it was the last to be read."""
        place = (os.getpid(), piece.file, piece.group, names)
        walk, self._walk = self._walk, None
        if walk is not None and walk[0] == (*place, piece.part):
            parts = walk[1]
        else:
            parts = _opened(self.paths[piece.file]).iter_batches(
                piece.stride, [piece.group], list(names), use_threads=False
            )
            for _ in range(piece.part):
                next(parts, None)
        batch = next(parts, None)
        if batch is None:
            raise ValueError("it has fewer rows than when it was opened")
        self._walk = (*place, piece.part + 1), parts
        return batch


def _opened(path: str) -> Any:
    """Without any thread or read ahead, so that nothing of it outlives a call or is shared."""
    return _parquet().ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)


def _groups(path: str, columns: Columns) -> list[tuple[int, int]]:
    """(rows, decoded bytes of `columns`) of each row group, from the file's end."""
    with told(path, "Parquet"), _opened(path) as file:
        check(path, file.schema_arrow, columns)
        metadata, schema = file.metadata, file.schema
        leaves = [
            leaf
            for leaf in range(len(schema))
            if schema.column(leaf).path.partition(".")[0] in columns.all
        ]
        found = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            size = group.total_byte_size  # of all columns
            if size > _PIECE_BYTES:
                size = sum(group.column(leaf).total_uncompressed_size for leaf in leaves)
            found.append((group.num_rows, size))
        return found


def _cut(file: int, groups: Iterable[tuple[int, int]]) -> Numbers:
    """The pieces of a file from (rows, bytes) of its row groups; int64 [P, 7], bytes the last."""
    pieces, first = [], 0
    for group, (length, size) in enumerate(groups):
        parts = min(-(-size // _PIECE_BYTES), length)
        stride = -(-length // parts) if parts > 1 else length
        for part, start in enumerate(range(0, length, max(stride, 1))):
            count = min(stride, length - start)
            piece = Piece(file, group, stride * (parts > 1), part, first + start, count)
            pieces.append((*piece, size * count // length))
        first += length
    return np.array(pieces, np.int64).reshape(-1, len(Piece._fields) + 1)


class ParquetReader(ColumnReader):
    """Parquet files with the pictures in them: a record per row.

    Args:
        path: a file, a folder (all *.parquet in it), a pattern, a list file, or a list of these.
        image: the column of the pictures: bytes, or a struct with the field bytes. Not given: the
            first of image, jpg, jpeg, png, webp, img, image_bytes that is there.
        caption: the column of the captions, or a list of columns; each a text or a list of texts.
            Not given: the first of caption, captions, text, txt, TEXT, sentences.
        tags: the column of the tags, a list of texts or one text with "|" between them. Not given:
            tags, if there is one.
        id: the column of what tells pictures apart. Not given: the first of image_id, id, key,
            __key__, img_id; where there is none, each row is a picture of its own.
        memory: megabytes of decoded rows that each process keeps.
    """

    _files: ParquetFiles

    def __init__(
        self,
        path: str | Sequence[str],
        image: str | None = None,
        caption: str | Sequence[str] | None = None,
        tags: str | None = None,
        id: str | None = None,
        memory: int = 256,
    ):
        wanted = {"image": image, "caption": caption, "tags": tags, "id": id}
        paths = rows.local_files(path, ".parquet")
        columns = _chosen(paths[0], wanted, ("image", "caption"))
        super().__init__(ParquetFiles(paths, columns, bound(memory)), columns)
        self._memory, self._warned = memory, False

    def order(self, seed: int, shuffle: Shuffle) -> Order:
        """With mode shards, a row group counts as a shard; a part of one, where it is large."""
        if isinstance(shuffle, Mapping) and shuffle["mode"] == "shards" and not self._warned:
            window = min(shuffle["window"], len(self._files.sizes))
            megabytes = -(-int(self._files.sizes.mean() * window) >> 20)
            if megabytes > self._memory:
                self._warned = True
                log.warning(
                    "%s: a window of %d row groups takes about %d MB, of which memory: %d keeps a "
                    "part: they are decoded many times over; set memory to %d, or a smaller window",
                    self._files.paths[0],
                    window,
                    megabytes,
                    self._memory,
                    megabytes + megabytes // 4,
                )
        return super().order(seed, shuffle)


def parquet_texts(path: str) -> TextRows:
    """How many rows a file has, and what each says; it needs no pictures."""
    columns = _chosen(path, {}, ("caption",))._replace(images=())
    reader = ColumnReader(ParquetFiles([path], columns, _PIECE_BYTES), columns)
    return len(reader), reader.texts


def _chosen(path: str, wanted: Mapping[str, Any], needs: Sequence[str]) -> Columns:
    with told(path, "Parquet"), _opened(path) as file:
        return choose(path, file.schema_arrow, wanted, needs)
