"""The official ERNIE-ViL2's dump of embeddings, and the table of its eval_retri.py.

A line a pair, as run_infer.py writes them into cross_modal_embeddings.out: the text's numbers, a
tab, the image's numbers, a tab, and 1; numbers are L2-normalised and stand between blanks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.files.durable import replacing


def write_dump(path: Path, embeddings: Embeddings) -> int:
    """A line for each pair of a text and one of its images, in the order of the texts.

    Returns:
        The number of lines. What belongs to nothing has none.

    Raises:
        UserError: no text has an image.
    """
    pairs = [(t, i) for t, owned in enumerate(embeddings.images_of_text) for i in owned]
    if not pairs:
        raise UserError("no text of the set names its image: a dump is made of pairs")

    @lru_cache(maxsize=16)  # the captions of an image mostly stand together
    def image_numbers(image: int) -> str:
        return _numbers(embeddings.image_embeds[image])

    with replacing(path) as draft, open(draft, "w", encoding="ascii") as file:
        for text, image in pairs:
            file.write(f"{_numbers(embeddings.text_embeds[text])}\t{image_numbers(image)}\t1\n")
    return len(pairs)


def _numbers(row: np.ndarray) -> str:
    """As few digits as give the same float32 again."""
    return " ".join(map(str, row))


def read_dump(path: Path) -> Embeddings:
    """The pairs of a dump, each a text and an image of its own.

    Raises:
        UserError: a file that cannot be read or is no dump, naming the line.
    """
    texts: list[np.ndarray] = []
    images: list[np.ndarray] = []
    for number, line in _lines(path):
        columns = line.rstrip("\r\n").split("\t")
        try:
            if len(columns) != 3:
                raise ValueError(f"{len(columns)} columns")
            text, image = (np.array(c.split(), np.float64).astype(np.float32) for c in columns[:2])
            widths = {len(text), len(image), *map(len, texts[:1])}
            if len(widths) > 1 or not len(text):
                raise ValueError(f"{len(text)} and {len(image)} numbers")
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: {str(error)[:100]}; expected the dump that run_infer.py writes: "
                "a text's numbers, a tab, as many of its image, a tab and 1"
            ) from None
        texts.append(text)
        images.append(image)
    if not texts:
        raise UserError(f"{path} is empty: expected a line for each pair of text and image")
    numbers = [str(i) for i in range(len(texts))]
    return Embeddings(
        image_ids=numbers,
        image_rows=np.arange(len(images)),
        image_embeds=np.stack(images),
        texts=numbers,
        text_ids=list(range(len(texts))),
        text_embeds=np.stack(texts),
        images_of_text=[[i] for i in range(len(texts))],
        bad_records=0,
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from enumerate(file, 1)
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text: expected a dump of embeddings") from None


def official_table(report: dict[str, Any]) -> str:
    """What eval_retri.py prints, of a report of `evaluate_retrieval`, in percent."""
    text, image = (report[direction] for direction in ("text_to_image", "image_to_text"))
    recalls = [name for name in text if name.startswith("R@")]
    names = [*recalls, "mean_recall"]
    rows = [
        ["Text2Image", *(text[name] for name in names)],
        ["Image2Text", *(image[name] for name in names)],
        ["MeanRecall", *((text[name] + image[name]) / 2 for name in names)],
    ]
    table = [["Name", *recalls, "meanRecall"]]
    table += [[row[0], *(f"{100 * value:.2f}" for value in row[1:])] for row in rows]
    # tabulate, which prints it there, leaves two blanks before the name of a column of numbers
    columns = list(zip(*table))
    widths = [max(len(cell) for cell in columns[0])]
    widths += [max(len(name) + 2, *map(len, cells)) for name, *cells in columns[1:]]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
