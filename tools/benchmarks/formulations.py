"""Ways to compute the loss of a global batch on one of its ranks: ours, and those of others.

Each takes `rows` [B, V, D], this rank's embeddings; `columns` [N, V, D], those of all ranks as a
gather brings them; the rank; and the logit scale. Gradients that end in `columns` are what the
gather's backward sums over ranks. Written anew from what the named programs compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from benchmarks.simulated_ring import SimulatedRing

from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Pair, Term
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.ring import ring_losses
from ernie_vil2.losses.targets import Records
from ernie_vil2.views import DEFAULT_IMAGE_VIEWS, DEFAULT_PAIRS, DEFAULT_TEXT_VIEWS

LOGIT_SCALE = 1 / 0.07
VIEWS = (*DEFAULT_IMAGE_VIEWS, *DEFAULT_TEXT_VIEWS)
TERMS = [Term.of(Pair(a, b), VIEWS) for a, b in DEFAULT_PAIRS]
PAIRS = [(VIEWS.index(a), VIEWS.index(b)) for a, b in DEFAULT_PAIRS]


class Formulation(NamedTuple):
    name: str
    whose: str
    loss: Callable
    square: bool = False  # its memory and time grow with N x N, not B x N
    travelling: bool = False  # its columns come one rank's after the other, their gradients leave


def formulations(chunks: list[int]) -> list[Formulation]:
    ours = [Formulation("plain", "ours", exact(None))]
    ours += [Formulation(f"chunked by {chunk:,}", "ours", exact(chunk)) for chunk in chunks]
    ours.append(Formulation("ring", "ours", ring, travelling=True))
    return [
        *ours,
        Formulation("a rank's own negatives only", "official code, in effect", own_negatives),
        Formulation(
            "all rows x all columns, gather without gradient",
            "PaddleNLP; open_clip without options",
            all_rows,
            square=True,
        ),
        Formulation(
            "own rows, gather without gradient",
            "open_clip --local-loss",
            constant_columns,
        ),
        Formulation(
            "own rows, backward of the gather keeps its own slice",
            "PaddleMIX with local loss",
            own_slice,
        ),
    ]


def exact(chunk: int | None) -> Callable:
    """The package's loss, its gather apart: plain for chunk None."""

    def loss(rows, columns, rank, scale):
        everything, records, first = _records(rows, columns, rank)
        targets = records.against(everything.keys(), first)
        inputs = (rows, columns, *_scales(scale), targets, TERMS)
        losses, *_ = plain_losses(*inputs) if chunk is None else chunked_losses(*inputs, chunk)
        return losses.sum()

    return loss


def ring(rows, columns, rank, scale):
    """The package's loss whose columns travel; the gradient of its own is with that of its rows."""
    everything, records, _ = _records(rows, columns, rank)
    circle = SimulatedRing(columns, everything.keys(), rank, rows.shape[0])
    losses, *_ = ring_losses(rows, *_scales(scale), records, TERMS, None, circle)
    return losses.sum()


def _records(rows, columns, rank):
    """Of all ranks and of this one, whose first record's number is the third result."""
    count, own = columns.shape[0], slice(rank * rows.shape[0], (rank + 1) * rows.shape[0])
    ids = dict.fromkeys(("image", "text"), paddle.arange(count))
    valid = paddle.ones([count], dtype="bool")
    return Records(ids, valid), Records({s: x[own] for s, x in ids.items()}, valid[own]), own.start


def _scales(scale):
    return paddle.concat([scale] * len(TERMS)), paddle.zeros([len(TERMS)])


def own_negatives(rows, columns, rank, scale):
    return _cross_entropy(rows, rows, 0, scale)


def all_rows(rows, columns, rank, scale):
    everything = _with_own(rows, columns, rank)
    return _cross_entropy(everything, everything, 0, scale)


def constant_columns(rows, columns, rank, scale):
    return _cross_entropy(rows, columns.detach(), rank * rows.shape[0], scale)


def own_slice(rows, columns, rank, scale):
    return _cross_entropy(rows, _with_own(rows, columns, rank), rank * rows.shape[0], scale)


def _with_own(rows, columns, rank):
    """All ranks' embeddings, of which only this rank's have a gradient."""
    start = rank * rows.shape[0]
    columns = columns.detach()
    return paddle.concat([columns[:start], rows, columns[start + rows.shape[0] :]])


def _cross_entropy(x, y, first, scale):
    """Symmetric; row i's positive is column first + i."""
    labels = paddle.arange(x.shape[0]) + first
    total = paddle.zeros([])
    for a, b in PAIRS:
        logits = paddle.matmul(scale * x[:, a], y[:, b], transpose_y=True)
        # of all rows, the other direction is there already
        back = logits.t() if x is y else paddle.matmul(scale * x[:, b], y[:, a], transpose_y=True)
        total += (F.cross_entropy(logits, labels) + F.cross_entropy(back, labels)) / 2
    return total


def data_parallel_gradient(loss: Callable, everything, world: int, logit_scale: float):
    """What training on `world` ranks gets: the loss, and gradients of [N, V, D] and of the scale.

    Parameters get the mean over ranks of what each backward brings them, so embeddings do.
    """
    columns, scale = paddle.to_tensor(everything), paddle.to_tensor([logit_scale])
    columns.stop_gradient = scale.stop_gradient = False
    total, own = 0.0, []
    for rank, part in enumerate(columns.detach().chunk(world)):
        rows = part.clone().detach()
        rows.stop_gradient = False
        value = loss(rows, columns, rank, scale) / world
        value.backward()
        total += float(value)
        own.append(rows.grad)
    gradient = paddle.concat(own)
    if columns.grad is not None:
        gradient = gradient + columns.grad
    return total, gradient.numpy(), float(scale.grad)


def embeddings(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 [count, V, D], L2-normalised; a record's views have a cosine of about 0.5."""
    rng = np.random.default_rng(seed)
    result = np.empty([count, len(VIEWS), dim], "float32")
    for start in range(0, count, 1024):
        block = result[start : start + 1024]
        block[:] = rng.standard_normal(block.shape, "float32")
        block += rng.standard_normal([len(block), 1, dim], "float32")
        block /= np.linalg.norm(block, axis=-1, keepdims=True)
    return result
