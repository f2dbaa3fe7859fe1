"""Texts of like length together, so that a short one does not pay for a long one's padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BUCKET = 4  # tokens; text lengths are rounded up to a multiple of it


def by_length(ids: np.ndarray, rows: int) -> Iterator[tuple[np.ndarray, int]]:
    """Groups of texts of like length, the shortest first.

    Args:
        ids: int64 [N, L], padded with 0.
        rows: most texts of a group.

    Returns:
        Of each group the indices of its texts, and their width: `ids[indices, :width]` holds them
        whole. All N indices come once.
    """
    lengths = np.max((ids != 0) * np.arange(1, ids.shape[1] + 1), axis=1, initial=1)
    widths = np.minimum(-(-lengths // BUCKET) * BUCKET, ids.shape[1])
    order = np.argsort(widths, kind="stable")
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        yield part, int(widths[part].max())


def widths(longest: int) -> list[int]:
    """The widths that `by_length` gives for texts padded to `longest` tokens, rising."""
    return [*range(BUCKET, longest, BUCKET), longest]
