"""Caption files in JSON: COCO's own and Karpathy's splits of COCO and Flickr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.formats import rows
from ernie_vil2.data.formats.index import cached
from ernie_vil2.data.formats.joined import JoinedReader, Text, text_id
from ernie_vil2.data.formats.mapped import Column, Write
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.formats.spans import Spans, json_arrays
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError, did_you_mean


def coco_text(spans: Spans, row: int) -> Text:
    """One of COCO's "annotations"."""
    source, text = rows.element(spans, row, "annotations:")
    caption = rows.text(text.get("caption"), '"caption"', source)
    image_ids = [rows.identity(text.get("image_id"), '"image_id"', source)]
    return Text(source, caption, image_ids, text_id(text.get("id")))


def karpathy_captions(image: dict[str, Any], source: str, at_least: int = 1) -> tuple[str, ...]:
    """The captions of one of Karpathy's "images"."""
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        raise BadRecord(source, '"sentences" is no list')
    raw = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in sentences]
    return rows.texts(raw, '"sentences"', source, at_least)


class CocoReader(JoinedReader):
    """{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}."""

    _images: Spans
    _texts: Spans

    def __init__(self, annotations: str, root: str, images: Spans, texts: Spans):
        self._root = root
        super().__init__(images, texts, [annotations], "coco")

    def _image_id(self, row: int) -> str:
        source, image = rows.element(self._images, row)
        rows.text(image.get("file_name"), '"file_name"', source)
        return rows.identity(image.get("id"), '"id"', source)

    def _text_row(self, row: int) -> Text:
        return coco_text(self._texts, row)

    def _image(self, row: int) -> tuple[str, str, bytes]:
        source, image = rows.element(self._images, row)
        data = rows.read_image(self._root, image["file_name"], source)
        return source, self._image_id(row), data


class KarpathyReader(Reader):
    """Karpathy's splits: {"images": [{"filename", "filepath", "split", "sentences": [{"raw"}]}]}.

    The id is "cocoid", else "imgid", else the path.
    """

    def __init__(self, annotations: str, root: str, images: Spans, splits: Sequence[str]):
        self._root, self._images, self._splits = root, images, list(splits)
        self._path = annotations
        self._rows: Column | None = None
        if len(self._selected()) == 0 and len(images):
            splits_seen = map(self._split, range(len(images)))
            seen = {split for split in splits_seen if split is not None}
            raise UserError(
                f"{annotations} has no image of split {', '.join(self._splits)}"
                f"{did_you_mean(self._splits[0], seen)}"
            )

    def _split(self, row: int) -> str | None:
        """None where the row is bad: it then belongs to every split, so that each reports it."""
        try:
            split = rows.element(self._images, row)[1].get("split")
        except BadRecord:
            return None
        return split if isinstance(split, str) else None

    def _build(self, write: Write) -> None:
        wanted = {None, *self._splits}
        selected = (
            row
            for row in range(len(self._images))
            if not self._splits or self._split(row) in wanted
        )
        write("rows", np.fromiter(selected, np.int64))

    def _selected(self) -> Column:
        """The rows of the wanted splits."""
        if self._rows is None:
            kind = "\0".join(["karpathy", *self._splits])
            self._rows = cached([self._path], kind, self._build).column("rows")
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __len__(self) -> int:
        return len(self._selected())

    def _get(self, position: int) -> Record:
        source, image = rows.element(self._images, self._selected()[position])
        if self._splits and not isinstance(image.get("split"), str):
            raise BadRecord(source, '"split" is missing')
        path = rows.text(image.get("filename"), '"filename"', source)
        if image.get("filepath"):
            path = rows.text(image["filepath"], '"filepath"', source) + "/" + path
        image_id = next((image[key] for key in ("cocoid", "imgid") if key in image), path)
        captions = karpathy_captions(image, source, self.least_captions)
        return Record(
            id=rows.identity(image_id, "id", source),
            image=rows.read_image(self._root, path, source),
            captions=captions,
            tags=(),
            source=source,
        )


def coco_arrays(path: str) -> list[Spans]:
    """[images, annotations] as Spans; Karpathy's files have no annotations."""
    return json_arrays(path, "images", "annotations")


def coco_reader(annotations: str, root: str, split: str | Sequence[str] | None = None) -> Reader:
    """COCO captions or Karpathy's `dataset_*.json`: a record per image, with all its captions.

    Args:
        annotations: the JSON file.
        root: the folder of the images.
        split: of Karpathy's files, the split or splits to read, e.g. "test" or ["train",
            "restval"]; None reads all.
    """
    path, folder = rows.file(annotations), rows.folder(root)
    splits = [split] if isinstance(split, str) else list(split or [])
    images, texts = coco_arrays(path)
    if len(texts) and splits:
        raise UserError(f"{path} holds COCO captions, which have no splits: leave split out")
    reader: Reader
    if len(texts):
        reader = CocoReader(path, folder, images, texts)
    else:
        reader = KarpathyReader(path, folder, images, splits)
    rows.refuse_empty(reader, path)
    return reader
