"""The embeddings of a set, whoever made them: our model, or a file of another program's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Embeddings(NamedTuple):
    """A set's images and texts, each once, in the order of the set.

    Attributes:
        image_ids: [N] strings.
        image_rows: int64 [N], an image's record in the reader.
        image_embeds: float32 [N, D], L2-normalised.
        texts: [M] strings.
        text_ids: [M], a text's id in its format, None where it has none.
        text_embeds: float32 [M, D], L2-normalised.
        images_of_text: [M] lists of the images that a text belongs to, maybe empty.
        bad_records: how many rows were left out.
        labels: [N] the classes of the images, None where nobody asked for them; or ().
    """

    image_ids: list[str]
    image_rows: np.ndarray
    image_embeds: np.ndarray
    texts: list[str]
    text_ids: list[Any]
    text_embeds: np.ndarray
    images_of_text: list[list[int]]
    bad_records: int
    labels: Sequence[str | None] = ()
