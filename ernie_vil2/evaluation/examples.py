"""What a model found for some queries, for the report's page and for submissions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.checks import Positives
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.report import write_text
from ernie_vil2.evaluation.retrieval import PROTOCOLS, rank_of_positives, top_k


@dataclass
class Result:
    """One gallery row that was found: `image` for a picture, else `label` is the caption itself."""

    label: str
    score: float
    right: bool
    image: bytes | None = None


@dataclass
class TextQuery:
    """A text and the pictures found for it.

    Attributes:
        results: best first.
        rank: of the first right one, 0 the best, from `rank_of_positives`; the page says it where
            no right one is among `results`.
    """

    text: str
    results: Sequence[Result]
    rank: int | None = None


@dataclass
class ImageQuery:
    """A picture, its file's bytes, and the texts found for it; `results` and `rank` as above."""

    image: bytes
    results: Sequence[Result]
    rank: int | None = None


def draw_examples(
    embeddings: Embeddings,
    picture: Callable[[int], bytes],
    count: int,
    seed: int = 0,
    block: int = 1024,
    protocol: str = "strict",
    shown: int = 8,
) -> list[TextQuery | ImageQuery]:
    """`count` random texts with the images found for them, and images with the texts found.

    Only what has something right to find is a query.

    Args:
        picture: from the number of an image to its file's bytes.
        count: queries of each kind, at most.
        seed: of the draw.
        block, protocol: as in `evaluate_retrieval`.
        shown: the most that is shown of what was found.
    """
    rng = np.random.default_rng(seed)
    images_of_text = [set(images) for images in embeddings.images_of_text]
    texts_of_image: dict[int, list[int]] = {}
    for text, images in enumerate(embeddings.images_of_text):
        for image in images:
            texts_of_image.setdefault(image, []).append(text)

    def search(query: np.ndarray, gallery: np.ndarray, positives: Positives) -> Iterator[Any]:
        """What is found for each query, its scores, and the rank of the first right one."""
        ranks = rank_of_positives(query, gallery, positives, block, PROTOCOLS[protocol])
        return zip(*top_k(query, gallery, shown, block), ranks.tolist())

    def drawn(queries: Iterable[int]) -> list[int]:
        return rng.permutation(sorted(queries))[:count].tolist()

    text_embeds, image_embeds = embeddings.text_embeds, embeddings.image_embeds
    texts = drawn(text for text, images in enumerate(images_of_text) if images)
    images = drawn(texts_of_image)
    if not texts or not images:
        return []
    found = search(text_embeds[texts], image_embeds, [embeddings.images_of_text[t] for t in texts])
    queries: list[TextQuery | ImageQuery] = [
        TextQuery(
            embeddings.texts[text],
            [
                Result(embeddings.image_ids[i], float(s), i in images_of_text[text], picture(i))
                for i, s in zip(results.tolist(), scores)
            ],
            rank,
        )
        for text, (results, scores, rank) in zip(texts, found)
    ]
    found = search(image_embeds[images], text_embeds, [texts_of_image[image] for image in images])
    return queries + [
        ImageQuery(
            picture(image),
            [
                Result(embeddings.texts[t], float(s), image in images_of_text[t])
                for t, s in zip(results.tolist(), scores)
            ],
            rank,
        )
        for image, (results, scores, rank) in zip(images, found)
    ]


def write_predictions(path: Path, embeddings: Embeddings, k: int, block: int = 1024) -> Path:
    """The `k` best images of each text as JSONL, as Chinese-CLIP's evaluation.py takes them:
    {"text_id": 7, "image_ids": [...]}; and beside it the texts of each image, as its
    evaluation_tr.py does: {"image_id": 7, "text_ids": [...]}. Of equal scores the set's first.

    Ids that are numbers are written as such; a text without an id has its place in the set, from 0.

    Args:
        path: of the first file.
        k: how many are written of what was found.
        block: as in `evaluate_retrieval`.

    Returns:
        The second file's path, `a.tr.jsonl` for `a.jsonl`.

    Raises:
        UserError: two texts with one id.
    """
    image_ids, text_ids = ids_of(embeddings)
    transposed = path.with_name(f"{path.stem}.tr{path.suffix}")
    for file, query, gallery, (name, ids), (found_name, found_ids) in (
        (
            path,
            embeddings.text_embeds,
            embeddings.image_embeds,
            ("text_id", text_ids),
            ("image_ids", image_ids),
        ),
        (
            transposed,
            embeddings.image_embeds,
            embeddings.text_embeds,
            ("image_id", image_ids),
            ("text_ids", text_ids),
        ),
    ):
        found, _ = top_k(query, gallery, k, block)
        _write_lines(
            file,
            (
                {name: own, found_name: [found_ids[i] for i in row]}
                for own, row in zip(ids, found.tolist())
            ),
        )
    return transposed


def write_muge(path: Path, embeddings: Embeddings, k: int, block: int = 1024) -> None:
    """The `k` best images of each text as MUGE's own submission, in the form of its
    MR_valid_queries.jsonl: {"query_id": 7, "query_text": "...", "item_ids": [...]}.

    Arguments and errors are those of `write_predictions`.
    """
    image_ids, text_ids = ids_of(embeddings)
    found, _ = top_k(embeddings.text_embeds, embeddings.image_embeds, k, block)
    _write_lines(
        path,
        (
            {"query_id": own, "query_text": text, "item_ids": [image_ids[i] for i in row]}
            for own, text, row in zip(text_ids, embeddings.texts, found.tolist())
        ),
    )


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON, a row a line."""
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def ids_of(embeddings: Embeddings) -> tuple[list[int | str], list[int | str]]:
    """The ids of images and texts as files of others name them; see `write_predictions`.

    Raises:
        UserError: two texts with one id.
    """
    text_ids = [
        place if text_id is None else _number(text_id)
        for place, text_id in enumerate(embeddings.text_ids)
    ]
    ((text_id, times),) = Counter(text_ids).most_common(1)
    if times > 1:
        raise UserError(f"{times} texts have the text_id {text_id}: renumber them")
    return [_number(image_id) for image_id in embeddings.image_ids], text_ids


def _number(name: int | str) -> int | str:
    """An id as a number where it is written like one, without leading zeros, say."""
    if isinstance(name, str) and name.isascii() and name.isdecimal() and len(name) < 19:
        return int(name) if str(int(name)) == name else name
    return name
