"""What the processes of `bench.py step` share: sizes, inputs, the clock. Needs NumPy alone."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALL = 1e-6  # learning rate: what a step changes does not matter here


@dataclass
class Shape:
    """Sizes of towers and batch.

    Attributes:
        pairs: of views, each scored with weight 1.
    """

    batch: int
    pairs: list[tuple[str, str]]
    image: int = 224  # side in pixels
    patch: int = 16
    tokens: int = 48
    width: int = 768
    depth: int = 12
    heads: int = 12
    vocabulary: int = 40000
    positions: int = 2048

    @property
    def image_views(self) -> list[str]:
        return self._views("image")

    @property
    def text_views(self) -> list[str]:
        return self._views("text")

    def _views(self, kind: str) -> list[str]:
        return sorted({view for pair in self.pairs for view in pair if view.startswith(kind)})

    def batch_of_views(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 [VB, 3, S, S] and int64 [VB, L], each view's rows after the one before."""
        rng = np.random.default_rng(0)
        rows = [len(views) * self.batch for views in (self.image_views, self.text_views)]
        pixel_values = rng.standard_normal([rows[0], 3, self.image, self.image], "float32")
        return pixel_values, rng.integers(5, self.vocabulary, [rows[1], self.tokens])


def timed(step: Callable[[], None], steps: int) -> list[dict]:
    """`{"wall", "user", "system"}` in seconds of so many calls, after one to warm up.

    user and system are of all threads of this process: what others run here does not count.
    """
    step()
    found = []
    for _ in range(steps):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        step()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        found.append({"wall": wall, "user": user, "system": system})
    return found
