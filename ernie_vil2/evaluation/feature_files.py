"""Files of features as PaddleNLP's ernie-vil2.0 and Chinese-CLIP write and read them.

Their extract_features.py writes `*_imgs.img_feat.jsonl`, a line {"image_id": 7, "feature": [...]}
an image, and `*_texts.txt_feat.jsonl`, a line {"text_id": 7, "feature": [...]} a text;
L2-normalised. Which images belong to a text says `*_texts.jsonl`, the answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.examples import ids_of
from ernie_vil2.files.durable import replacing

Id = str  # of an image or a text; JSON may give it as a number


def write_features(prefix: str, embeddings: Embeddings) -> tuple[Path, Path]:
    """`PREFIX_imgs.img_feat.jsonl` and `PREFIX_texts.txt_feat.jsonl`.

    Ids are written as `write_predictions` does.

    Raises:
        UserError: two texts with one id.
    """
    image_ids, text_ids = ids_of(embeddings)
    images, texts = Path(f"{prefix}_imgs.img_feat.jsonl"), Path(f"{prefix}_texts.txt_feat.jsonl")
    for path, name, ids, embeds in (
        (images, "image_id", image_ids, embeddings.image_embeds),
        (texts, "text_id", text_ids, embeddings.text_embeds),
    ):
        with replacing(path) as draft, open(draft, "w", encoding="utf-8") as file:
            for own, row in zip(ids, embeds):
                line = {name: own, "feature": row.tolist()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return images, texts


def read_features(images: Path, texts: Path, answers: Path) -> Embeddings:
    """What two files of features say, with the pairs of the answers.

    Raises:
        UserError: a file that cannot be read, naming the line; an answer that names what has no
            feature.
    """
    image_ids, image_embeds = _features(images, "image_id")
    text_ids, text_embeds = _features(texts, "text_id")
    number_of = {image_id: number for number, image_id in enumerate(image_ids)}
    owned = read_answers(answers)
    for path, name, asked, there in (
        (images, "image_id", chain.from_iterable(owned.values()), number_of.keys()),
        (texts, "text_id", owned, set(text_ids)),
    ):
        missing = next((own for own in asked if own not in there), None)
        if missing is not None:
            raise UserError(f"{path} has no feature of {name} {missing}, which {answers} names")
    return Embeddings(
        image_ids=image_ids,
        image_rows=np.arange(len(image_ids)),
        image_embeds=image_embeds,
        texts=text_ids,
        text_ids=list(text_ids),
        text_embeds=text_embeds,
        images_of_text=[sorted({number_of[i] for i in owned.get(t, ())}) for t in text_ids],
        bad_records=0,
    )


def read_answers(path: Path) -> dict[Id, list[Id]]:
    """text id -> the ids of its images, of a `*_texts.jsonl`.

    Raises:
        UserError: a file that cannot be read or has no such lines; a text id that stands twice.
    """
    return dict(read_lists(path, "text_id", "image_ids"))


def read_lists(path: Path, name: str, listed: str) -> Iterator[tuple[Id, list[Id]]]:
    """The id `name` and the ids `listed` of each line, no id twice."""
    seen: set[Id] = set()
    for where, line in read_lines(path):
        own, values = _id(line, name, where), line.get(listed)
        if not isinstance(values, list):
            raise UserError(f'{where}: "{listed}" is missing or no list of ids')
        if own in seen:
            raise UserError(f"{where}: {name} {own} stands in an earlier line too")
        seen.add(own)
        yield own, [_id({listed: value}, listed, where) for value in values]


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("file:line", the object) of each line of a JSONL file that is not blank.

    Raises:
        UserError: a line that is no JSON object; no line at all.
    """
    some = False
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: no JSON: {str(error)[:100]}") from None
            if not isinstance(line, dict):
                raise UserError(f"{path}:{number}: a JSON {type(line).__name__}, no object")
            some = True
            yield f"{path}:{number}", line
    if not some:
        raise UserError(f"{path} is empty: expected a JSON object a line")


def _features(path: Path, name: str) -> tuple[list[Id], np.ndarray]:
    """Ids, and float32 [N, D]."""
    rows: dict[Id, np.ndarray] = {}
    for where, line in read_lines(path):
        own = _id(line, name, where)
        if own in rows:
            raise UserError(f"{where}: {name} {own} stands in an earlier line too")
        rows[own] = row = _vector(line.get("feature"))
        width = len(next(iter(rows.values())))
        if not len(row) or len(row) != width:
            expected = f"{width} numbers as in line 1" if width else "a list of numbers"
            raise UserError(f'{where}: "feature" is missing or not {expected}')
    return list(rows), np.stack(list(rows.values()))


def _vector(numbers: Any) -> np.ndarray:
    """float32 [D]; [0]: it is no list of numbers."""
    try:
        row = np.array(numbers, np.float64).astype(np.float32)
    except (TypeError, ValueError):
        return np.empty([0], np.float32)
    return row if row.ndim == 1 else np.empty([0], np.float32)


def _id(line: Mapping[str, Any], name: str, where: str) -> Id:
    value = line.get(name)
    if isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise UserError(f'{where}: "{name}" is missing or no id')


def lists_of_images(owned: Mapping[Id, Sequence[Id]]) -> dict[Id, list[Id]]:
    """image id -> its texts, of text id -> its images: transform_ir_annotation_to_tr.py."""
    found: dict[Id, list[Id]] = {}
    for text_id, images in owned.items():
        for image_id in dict.fromkeys(images):
            found.setdefault(image_id, []).append(text_id)
    return found
