"""Position embeddings trained for one resolution or length, made to fit another.

An image tower's are like a picture: a square grid of vectors that vary smoothly from place to
place. Another resolution needs the same picture in another size. They are resized by bicubic
interpolation, as PaddleClas, Chinese-CLIP and timm do it (convolution with a = -0.75, half-pixel
centres, the border repeated, no smoothing before shrinking).

A text tower's are counted from the first token, whatever the text's length. To have fewer positions
the first ones are kept: every text that fits keeps its embedding exactly, where resizing would
change all. For more positions there are no trained vectors. Stretching the table by the same cubic
interpolation along its one axis gives each a place between trained ones, but moves every token, so
that such a tower has to be trained further. The log says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

IMAGE = "image_tower.backbone.pos_embed"
TEXT = "text_tower.ernie.embeddings.position_embeddings.weight"
_TEXTS = (TEXT, TEXT.replace("ernie", "bert"))
_A = -0.75  # of the cubic convolution, as OpenCV, Paddle and PyTorch have it


def fit_all(
    state: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Weights with position embeddings of the wanted shapes, and a line for each that changed.

    Args:
        state: name -> array.
        wanted: name -> what has a shape.
        prefix: what has to stand before these names to make them ours.
    """
    result, lines = dict(state), []
    for name in (IMAGE, *_TEXTS):
        key = name[len(prefix) :]
        if name.startswith(prefix) and key in state and key in wanted:
            fitted = fit(name, np.asarray(state[key]), tuple(wanted[key].shape))
            if fitted:
                result[key], did = fitted
                lines.append(f"{key} {did}")
    return result, lines


def fit(name: str, array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str] | None:
    """The position embeddings `array` in another `shape`, and what was done to them.

    Args:
        name: the parameter's structured name in our model.

    Returns:
        None where the parameter has no position embeddings, or resizing alone does not give the
        shape.
    """
    if array.shape == shape or array.ndim != len(shape) or array.shape[-1] != shape[-1]:
        return None
    if name == IMAGE and array.ndim == 3 and array.shape[0] == shape[0] == 1:
        old, new = _side(array.shape[1]), _side(shape[1])
        if not (old and new):
            return None
        return resize_grid(array, new), f"resized from {old} x {old} to {new} x {new} (bicubic)"
    if name in _TEXTS and array.ndim == 2:
        old, new = len(array), shape[0]
        if new < old:
            return array[:new].copy(), f"cut from {old} to the first {new}"
        did = f"stretched from {old} to {new} (cubic), which moves every token: train on with them"
        return resize_table(array, new), did
    return None


def resize_grid(embeddings: np.ndarray, side: int) -> np.ndarray:
    """[1, 1 + n * n, C], the class token's first -> [1, 1 + side * side, C], bicubic."""
    n, width = _side(embeddings.shape[1]), embeddings.shape[2]
    assert n is not None, f"{embeddings.shape[1]} rows are no class token and a square"
    weights = _cubic(n, side)  # [side, n]
    grid = embeddings[0, 1:].astype(np.float64).reshape(n, n, width)
    grid = np.einsum("yi,xj,ijc->yxc", weights, weights, grid, optimize=True)
    rows = [embeddings[0, :1], grid.reshape(side * side, width)]
    return np.concatenate(rows)[None].astype(embeddings.dtype)


def resize_table(embeddings: np.ndarray, rows: int) -> np.ndarray:
    """[n, C] -> [rows, C], cubic along the first axis."""
    weights = _cubic(len(embeddings), rows)
    return (weights @ embeddings.astype(np.float64)).astype(embeddings.dtype)


def _cubic(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] that resamples a line of numbers; each row's sum is 1."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        at = np.floor(centres) + tap
        distance = np.abs(centres - at)
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        index = np.clip(at, 0, old - 1).astype(int)
        np.add.at(matrix, (np.arange(new), index), np.where(distance <= 1, near, far))
    return matrix


def _side(rows: int) -> int | None:
    """The side of a square grid with a class token before it."""
    side = math.isqrt(max(rows - 1, 0))
    return side if side and side * side == rows - 1 else None
