"""Chinese-CLIP's layout: images in a TSV, and texts that name them in a JSONL file."""

from __future__ import annotations

from ernie_vil2.data.formats import rows, spans
from ernie_vil2.data.formats.joined import JoinedReader, Text, text_id
from ernie_vil2.data.records import BadRecord

_MAX_ID_BYTES = 4096  # an image's id is looked for so far into its row
_NAMES = ("text_id", "text", "image_ids")
_MUGE = ("query_id", "query_text", "item_ids")  # the same in MUGE's own MR_*_queries.jsonl


def chinese_clip_text(texts: spans.Spans, row: int) -> Text:
    """A row of `*_texts.jsonl`, or of MUGE's queries; of a test set it may name no image."""
    source, line = rows.line(texts, row)
    parsed = rows.json_object(line, source)
    own, text, images = _MUGE if _MUGE[0] in parsed else _NAMES
    ids = parsed.get(images, [] if images == _MUGE[2] else None)  # MUGE's test set has no such key
    if not isinstance(ids, list):
        raise BadRecord(source, f'"{images}" is no list of ids')
    ids = [rows.identity(image_id, f'"{images}"', source) for image_id in ids]
    words = rows.text(parsed.get(text), f'"{text}"', source)
    return Text(source, words, ids, text_id(parsed.get(own)))


class ChineseClipReader(JoinedReader):
    r"""Chinese-CLIP's layout: a record per image, with all its captions.

    Args:
        imgs: `*_imgs.tsv` with rows `id \t base64`.
        texts: `*_texts.jsonl` with {"text_id", "text", "image_ids"}; an evaluation takes an empty
            list of ids, as in MUGE's test set. Or MUGE's own names: {"query_id", "query_text",
            "item_ids"}, the last missing in its test set.
    """

    _images: spans.Spans
    _texts: spans.Spans

    def __init__(self, imgs: str, texts: str):
        image_rows, text_rows = spans.lines(rows.file(imgs)), spans.lines(rows.file(texts))
        super().__init__(image_rows, text_rows, [image_rows.path, text_rows.path], "chinese_clip")
        rows.refuse_empty(self, f"{imgs} and {texts}")

    def _image_id(self, row: int) -> str:
        source, start = rows.line(self._images, row, _MAX_ID_BYTES)
        image_id, tab, _ = start.partition(b"\t")
        if not tab:
            raise BadRecord(source, "one column, expected image id and base64")
        return rows.text(rows.decode(image_id, source), "image id", source)

    def _text_row(self, row: int) -> Text:
        return chinese_clip_text(self._texts, row)

    def _image(self, row: int) -> tuple[str, str, bytes]:
        source, line = rows.line(self._images, row)
        columns = line.split(b"\t")
        if len(columns) != 2:
            raise BadRecord(source, f"{len(columns)} columns, expected image id and base64")
        return source, self._image_id(row), rows.from_base64(columns[1], source)
