"""Pixels to vectors, in batches that a model does in less than a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ernie_vil2.data.arrays import Array, Floats

# A run takes a multiple of so many rows: then a row's bits do not depend on those beside it, as
# the last rows of an odd number do in the libraries for matrices.
ROWS = 8
_SLOW, _FAST = 1.0, 0.25  # seconds of a run

Embed = Callable[[Array], Floats]


class Embedder:
    """A model that is loaded when the first picture needs it.

    Args:
        load: gives a function of what `artefact.transform()` gave, stacked, [N, ...] -> float32
            [N, D], L2-normalised.
        most: pictures of a run.

    Attributes:
        size: pictures of the next run: as many as take less than a second, so that Ctrl-C and
            kill -9 find little in work, up to `most`.
    """

    def __init__(self, load: Callable[[], Embed], most: int):
        self._load, self._most = load, most
        self._embed: Embed | None = None
        self.size = min(ROWS, most)

    def __call__(self, pixels: Sequence[Array]) -> Floats:
        """float32 [N, D] of N of them."""
        if self._embed is None:
            self._embed = self._load()
        count, beyond = len(pixels), -len(pixels) % ROWS
        rows = np.stack([*pixels, *[pixels[-1]] * beyond])
        start = time.monotonic()
        embeds = self._embed(rows)[:count]
        seconds = time.monotonic() - start
        if seconds > _SLOW:
            self.size = max(min(ROWS, self._most), self.size // 2)
        elif seconds < _FAST and count == self.size:
            self.size = min(2 * self.size, self._most)
        return embeds
