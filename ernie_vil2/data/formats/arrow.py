"""Arrow files with the pictures in them, as PaddleNLP's example and Hugging Face write them.

PaddleNLP's ERNIE-ViL 2.0 (create_arrow_dataset.py of its model_zoo) makes two of each split:

    valid.arrow      image (bytes) | caption (text) | image_id (number or text): a row per pair
    valid_img.arrow  image (bytes) | image_id: a row per picture

`datasets.save_to_disk` of Hugging Face makes data-*.arrow, in Arrow's form for streams. Both are
mapped into memory, not read: what several processes read of them is held once, by the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.columns import ColumnFiles, Piece, bound, told
from ernie_vil2.data.formats.joined import JoinedReader, Text
from ernie_vil2.data.formats.pictures import ColumnReader, Columns, TextRows, check, choose, picture
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.packages import needed
from ernie_vil2.errors import UserError

_MAGIC = b"ARROW1"  # what a file begins with, and a stream does not


class ArrowFiles(ColumnFiles):
    """The rows of Arrow files, by record batch, mapped into memory."""

    def __init__(self, paths: Sequence[str], columns: Columns, memory: int):
        self._open: dict[int, _Batches] = {}
        pieces = []
        for file, path in enumerate(paths):
            with told(path, "Arrow"):
                batches = _Batches(path)
                check(path, batches.schema, columns)
                lengths = [batches[group].num_rows for group in range(len(batches))]
            first = 0
            for group, length in enumerate(lengths):
                if length:
                    pieces.append(Piece(file, group, 0, 0, first, length))
                first += length
        super().__init__(paths, pieces, memory)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_open": {}}

    def _load(self, piece: Piece, names: Sequence[str]) -> tuple[Any, int]:
        # a map is nothing that a forked process could disturb: it goes on with its parent's
        batches = self._open.get(piece.file)
        if batches is None:
            batches = self._open[piece.file] = _Batches(self.paths[piece.file])
        if piece.group >= len(batches):
            raise ValueError("the file has fewer rows than when it was opened")
        batch = batches[piece.group].select(list(names))
        for column in batch.columns:
            _refuse_wild_offsets(column)
        return batch, batches.decoded_bytes(batch)


def _refuse_wild_offsets(column: Any) -> None:
    """Raise ValueError where a damaged file would have us read outside its column."""
    try:
        column.validate(full=True)
    except ValueError as error:
        if "UTF8" not in str(error):  # looked at last, and a matter of the row that has it
            raise


class _Batches:
    """The record batches of an Arrow file, mapped into memory."""

    def __init__(self, path: str):
        pa = needed("pyarrow", "data set format arrow")
        source = pa.memory_map(path)
        whole = source.read_buffer(source.size())
        self._map = range(whole.address, whole.address + whole.size)
        self._batches: list[Any] | None = None
        if whole[: len(_MAGIC)].to_pybytes() == _MAGIC:
            self._file = pa.ipc.open_file(whole)
            self.schema = self._file.schema
        else:
            stream = pa.ipc.open_stream(whole)
            self.schema, self._batches = stream.schema, []
            for batch in stream:  # where they lie: what they hold is not read
                self._batches.append(batch)
                if self.decoded_bytes(batch):
                    raise ValueError("it is a compressed stream, of which no row can be read alone")

    def __len__(self) -> int:
        return self._file.num_record_batches if self._batches is None else len(self._batches)

    def __getitem__(self, group: int) -> Any:
        return self._file.get_batch(group) if self._batches is None else self._batches[group]

    def decoded_bytes(self, batch: Any) -> int:
        """What of a batch does not lie in the map, since it is compressed there."""
        buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer]
        return sum(buffer.size for buffer in buffers if buffer.address not in self._map)


class ArrowPairs(JoinedReader):
    """Pictures in one file, and captions in another that name them by their ids.

    A record per picture, with all its captions; an evaluation has also the pictures without any.

    Args:
        images: rows with a picture and its id.
        texts: rows with a caption and the id of its picture.
        image_columns, text_columns: what to read of them.
    """

    _images: ArrowFiles
    _texts: ArrowFiles

    def __init__(
        self, images: ArrowFiles, image_columns: Columns, texts: ArrowFiles, text_columns: Columns
    ):
        self._image_columns = (*image_columns.images, *image_columns.ids)
        self._text_columns = (*text_columns.captions, *text_columns.ids)
        for files, found in ((images, self._image_columns), (texts, self._text_columns)):
            if len(found) != 2:
                raise UserError(
                    f"{files.paths[0]}: pictures and captions in two files are joined by one "
                    f"column of ids and one of captions; found {', '.join(found)}"
                )
        names = "\0".join([*self._image_columns, *self._text_columns])
        super().__init__(images, texts, [*images.paths, *texts.paths], f"arrow {names}")
        rows.refuse_empty(self, " and ".join([*images.paths, *texts.paths]))

    def _image_id(self, row: int) -> str:
        _, name = self._image_columns
        source, (image_id,) = self._images.values(row, (name,))
        return rows.identity(image_id, f'"{name}"', source)

    def _image(self, row: int) -> tuple[str, str, bytes]:
        image_name, id_name = self._image_columns
        source, (image, image_id) = self._images.values(row, self._image_columns)
        image_id = rows.identity(image_id, f'"{id_name}"', source)
        return source, image_id, picture(image, image_name, source)

    def _text_row(self, row: int) -> Text:
        text_name, id_name = self._text_columns
        source, (text, image_id) = self._texts.values(row, self._text_columns)
        text = rows.text(text, f'"{text_name}"', source)
        return Text(source, text, [rows.identity(image_id, f'"{id_name}"', source)], None)


def arrow_reader(
    path: str | Sequence[str],
    images: str | None = None,
    image: str | None = None,
    caption: str | Sequence[str] | None = None,
    tags: str | None = None,
    id: str | None = None,
    memory: int = 256,
) -> Reader:
    """Arrow files: a record per row; with `images`, a record per picture with all its captions.

    Args:
        path: a file, a folder (all *.arrow in it), a pattern, a list file, or a list of these.
        images: the file of the pictures, PaddleNLP's `{split}_img.arrow`, where `path` is
            `{split}.arrow`, of which captions and ids are read.
        image, caption, tags, id, memory: as in ParquetReader; memory counts what is compressed.
    """
    limit = bound(memory)
    wanted = {"image": image, "caption": caption, "tags": tags, "id": id}
    if images is None:
        return ColumnReader(
            *_chosen(rows.local_files(path, ".arrow"), wanted, limit, ("image", "caption"))
        )
    pictures = _chosen([rows.file(images)], {"image": image, "id": id}, limit, ("image",))
    return ArrowPairs(*pictures, *_chosen([rows.file(path)], wanted, limit, ("caption",)))


def arrow_texts(path: str) -> TextRows:
    """How many rows a file has, and what each says; it needs no pictures."""
    reader = ColumnReader(*_chosen([path], {}, bound(1), ("caption",)))
    return len(reader), reader.texts


def _chosen(
    paths: Sequence[str], wanted: dict[str, Any], memory: int, needed: Sequence[str]
) -> tuple[ArrowFiles, Columns]:
    with told(paths[0], "Arrow"):
        columns = choose(paths[0], _Batches(paths[0]).schema, wanted, needed)
    return ArrowFiles(paths, columns, memory), columns
