"""What is drawn for an augmented view: numbers alone, from the size of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Step = tuple[str, float]  # of the colour jitter: its name, and its factor or shift


class Part(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """One augmentation.

    Attributes:
        part: of the image that becomes the view.
        shape: height and width of the image in whose pixels the part is.
        flip: left and right change places.
        jitter: colour steps, in the order in which they are taken.
        gray: whether colours are left out.
        sigma: of the blur; None: none.
    """

    part: Part
    shape: tuple[int, int]
    flip: bool
    jitter: tuple[Step, ...]
    gray: bool
    sigma: float | None


def random_part(height: int, width: int, size: int, rng: np.random.Generator) -> Part:
    """A square of `size` pixels, each place as likely."""
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return Part(int(top), int(left), size, size)


def random_resized_part(
    height: int, width: int, scale: Sequence[float], rng: np.random.Generator
) -> Part:
    """A part of random area and aspect, as of torchvision's RandomResizedCrop.

    The share of the area is drawn from `scale`, the aspect from 3/4 to 4/3, uniformly in the
    logarithm. After ten draws that do not fit: the largest centre part with a permitted aspect.
    """
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Part(int(top), int(left), h, w)
    w = min(width, max(1, round(height * 4 / 3)))
    h = min(height, max(1, round(width * 4 / 3)))
    return Part((height - h) // 2, (width - w) // 2, h, w)


def random_jitter(jitter: Mapping[str, float], rng: np.random.Generator) -> tuple[Step, ...]:
    """Steps of torchvision's ColorJitter in random order; strengths by name, as in `Transform`."""
    steps = []
    for name, share in zip(("brightness", "contrast", "saturation", "hue"), rng.random(4).tolist()):
        low, high = -jitter[name], jitter[name]
        if name != "hue":
            low, high = max(0.0, 1 + low), 1 + high
        steps.append((name, low + (high - low) * share))
    return tuple(steps[i] for i in rng.permutation(len(steps)))
