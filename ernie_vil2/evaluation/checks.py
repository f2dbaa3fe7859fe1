"""What retrieval is asked to score, checked: each function raises UserError, in one line."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any, Union

import numpy as np

from ernie_vil2.errors import UserError

# For each query its right gallery rows: lists or arrays of them, or int [Q, P] for as many each.
Positives = Union[Sequence[Sequence[int]], Sequence[np.ndarray], np.ndarray]


def check_ks(ks: Sequence[int]) -> list[int]:
    """In order, none twice."""
    try:
        checked = sorted({operator.index(k) for k in ks})
    except TypeError:
        checked = []
    if not checked or checked[0] < 1:
        raise UserError(f"k is {ks}: expected whole numbers of 1 or more, as in (1, 5, 10)")
    return checked


def check_embeddings(**pair: np.ndarray) -> list[np.ndarray]:
    """float32 [rows, width] each, at least one row, one width, all numbers finite."""
    pair = {name: np.asarray(rows) for name, rows in pair.items()}
    for name, rows in pair.items():
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiub":
            raise UserError(
                f"{name} is {rows.dtype} {list(rows.shape)}: expected numbers [rows, width], "
                "at least one row"
            )
    (one, other), (left, right) = pair, pair.values()
    if left.shape[1] != right.shape[1]:
        raise UserError(
            f"{one} rows hold {left.shape[1]} numbers, {other} rows {right.shape[1]}: "
            "embed both with one model"
        )
    for name, rows in pair.items():
        with np.errstate(over="ignore"):
            rows = pair[name] = rows.astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise UserError(
                f"{name} row {bad[0]} holds NaN or infinity ({len(bad)} of {len(rows)} rows do): "
                "the model diverged, load an earlier checkpoint"
            )
    return list(pair.values())


def check_positives(
    positives: Positives, queries: int, candidates: int
) -> tuple[np.ndarray, np.ndarray]:
    """(query index, gallery index), int64 [pairs] each, in order, no pair twice, none without."""
    if len(positives) != queries:
        raise UserError(f"{len(positives)} lists of positives for {queries} queries: one for each")
    try:
        count, columns = _flat(positives)
    except TypeError as error:
        raise UserError(f"positives: expected a list of whole numbers per query: {error}") from None
    if not count.all():
        raise UserError(f"query {np.argmin(count)} has no positive: leave it out of the queries")
    rows = np.repeat(np.arange(queries), count)
    bad = np.flatnonzero((columns < 0) | (columns >= candidates))
    if len(bad):
        raise UserError(
            f"query {rows[bad[0]]} has the positive {columns[bad[0]]}: the gallery's rows are 0 to "
            f"{candidates - 1}"
        )
    return _distinct(rows, columns, candidates)


def check_image_of_text(
    image_of_text: Sequence, texts: int, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """(text, image), int64 [pairs] each, in order of texts, no pair twice.

    Args:
        image_of_text: for each text the row of its image, or a list of rows, which may be empty.
        texts, images: how many there are.
    """
    if len(image_of_text) != texts:
        raise UserError(
            f"image_of_text has {len(image_of_text)} entries for {texts} texts: one for each"
        )
    try:
        count, columns = _flat([i if np.ndim(i) else [i] for i in image_of_text])
    except TypeError as error:
        raise UserError(
            f"image_of_text: expected whole numbers, or lists of them: {error}"
        ) from None
    bad = columns[(columns < 0) | (columns >= images)]
    if len(bad):
        raise UserError(f"image_of_text has {bad[0]}: expected 0 to {images - 1}")
    if not len(columns):
        raise UserError(
            "no text has an image (image_of_text names none): there is no pair to score"
        )
    return _distinct(np.repeat(np.arange(texts), count), columns, images)


def _flat(lists: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = np.fromiter(map(len, lists), np.int64, len(lists))
    return count, np.fromiter(map(operator.index, chain.from_iterable(lists)), np.int64)


def _distinct(rows: np.ndarray, columns: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    pair = np.unique(rows * width + columns)
    return pair // width, pair % width
