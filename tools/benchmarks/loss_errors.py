"""Errors against float64: of the package's loss, and of what other programs compute."""

from __future__ import annotations

import numpy as np
import paddle
from benchmarks.common import Report, error, relative_error
from benchmarks.float64 import contrast
from benchmarks.formulations import (
    LOGIT_SCALE,
    VIEWS,
    data_parallel_gradient,
    embeddings,
    formulations,
)
from benchmarks.simulated_ring import SimulatedRing

from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Pair, Term
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.ring import ring_losses
from ernie_vil2.losses.targets import Records
from ernie_vil2.views import DEFAULT_PAIRS

SIGMOID_BIAS = -10.0
RING = "ring"


def error_tables(report: Report, options) -> None:
    columns = {
        "targets": ("targets", str),
        "path": ("path", str),
        "loss": ("loss", error),
        "rows": ("gradient of rows", error),
        "columns": ("of columns", error),
        "scale": ("of the scale", error),
        "bias": ("of the bias", error),
    }
    sizes = {(min(options.error_rows, n), n) for n in (options.small_global, options.sizes[-1])}
    for rows, count in sorted(sizes):
        report.table(
            f"errors_{count}",
            f"Error against float64: {rows:,} local rows, {count:,} columns, {options.dim} numbers",
            columns,
            errors(rows, count, options.dim, options.chunks),
            "Largest difference as a share of the largest number; four pairs; float64 is NumPy.",
        )


def errors(rows: int, count: int, dim: int, chunks: list[int]):
    everything = embeddings(count, dim)
    rng = np.random.default_rng(1)
    # every image about twice and every text four times
    several = {
        source: rng.integers(0, -(-count // n), count) for source, n in (("image", 2), ("text", 4))
    }
    one = dict.fromkeys(several, np.arange(count))
    kinds = [
        ("softmax, one positive", one, None, chunks),
        ("softmax, several", several, None, chunks[:1]),
        ("sigmoid, several", several, SIGMOID_BIAS, chunks[:1]),
    ]
    for name, ids, bias, of_kind in kinds:
        pairs = [(a, b, 1.0, LOGIT_SCALE, bias) for a, b in DEFAULT_PAIRS]
        expected = contrast(everything[:rows], everything, VIEWS, ids, pairs)
        expected["scale"], expected["bias"] = (
            expected.pop(key).sum() for key in ("scales", "biases")
        )
        if bias is None:
            del expected["bias"]
        for chunk in (None, *of_kind, RING):
            found = float32(everything, rows, ids, bias, chunk)
            path = {None: "plain", RING: "ring"}.get(chunk, f"chunked by {chunk}")
            if chunk == RING:  # the gradient of its own columns is with that of its rows
                own = expected["columns"][:rows].copy()
                expected["rows"] = expected["rows"] + own
                expected["columns"][:rows] -= own
            wrong = {key: relative_error(found[key], value) for key, value in expected.items()}
            yield {"targets": name, "path": path, **wrong}


def float32(everything: np.ndarray, rows: int, ids, bias: float | None, chunk) -> dict:
    """The package's loss and gradients, as `contrast` names them."""
    leaves = {
        "rows": paddle.to_tensor(everything[:rows]),
        "columns": paddle.to_tensor(everything),
        "scale": paddle.to_tensor([LOGIT_SCALE]),
        "bias": paddle.to_tensor([bias or 0.0]),
    }
    for leaf in leaves.values():
        leaf.stop_gradient = False
    ids = {source: paddle.to_tensor(numbers) for source, numbers in ids.items()}
    valid = paddle.ones([len(everything)], dtype="bool")
    records = Records({s: x[:rows] for s, x in ids.items()}, valid[:rows])
    keys = Records(ids, valid).keys()
    kind = "softmax" if bias is None else "sigmoid"
    terms = [Term.of(Pair(a, b, loss=kind), VIEWS) for a, b in DEFAULT_PAIRS]
    scales, biases = (paddle.concat([leaves[key]] * len(terms)) for key in ("scale", "bias"))
    inputs = (leaves["rows"], leaves["columns"], scales, biases, records.against(keys, 0), terms)
    if chunk == RING:
        circle = SimulatedRing(leaves["columns"], keys, 0, rows)
        losses, *_ = ring_losses(leaves["rows"], scales, biases, records, terms, None, circle)
    else:
        losses, *_ = plain_losses(*inputs) if chunk is None else chunked_losses(*inputs, chunk)
    losses.sum().backward()
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}
    return {"loss": float(losses.sum()), **gradients}


def formulation_table(report: Report, options) -> None:
    world, count = options.ranks, options.small_global
    everything = embeddings(count, options.dim)
    pairs = [(a, b, 1.0, LOGIT_SCALE, None) for a, b in DEFAULT_PAIRS]
    reference = contrast(everything, everything, VIEWS, {}, pairs)
    expected = reference["rows"] + reference["columns"]
    rows = []
    for each in formulations(options.chunks):
        found = data_parallel_gradient(each.loss, everything, world, LOGIT_SCALE)
        loss, gradient, to_scale = found
        size = float((gradient * expected).sum() / (expected**2).sum())
        rows.append(
            {
                "name": each.name,
                "whose": each.whose,
                "loss": relative_error(loss, reference["loss"]),
                "gradient": relative_error(gradient, expected),
                "size": size,
                "direction": relative_error(gradient / size, expected),
                "scale": relative_error(to_scale, reference["scales"].sum()),
            }
        )
    report.table(
        "formulations",
        f"Which gradient {world} ranks end up with: {count:,} records, {options.dim} numbers",
        {
            "name": ("formulation", str),
            "whose": ("whose", str),
            "loss": ("loss", error),
            "gradient": ("gradient of the embeddings", error),
            "size": ("its size", lambda value: f"{value:.4f}"),
            "direction": ("its error but for the size", error),
            "scale": ("gradient of the scale", error),
        },
        rows,
        "Error against the gradient of the loss of all records in float64. The ranks are "
        "simulated: each one's backward, the sum over ranks where the gather's backward takes it, "
        "and the mean over ranks that data parallelism takes of parameters' gradients. The peers' "
        "formulations are written anew. open_clip with --gather-with-grad is exact like the plain "
        "path.",
    )
