"""`bench.py loss`: one rank's loss with a simulated gather: errors, memory, time."""

from __future__ import annotations

import time

import numpy as np
import paddle
from benchmarks.common import (
    Report,
    error,
    extra_memory,
    mebibytes,
    relative_error,
    run_apart,
    seconds,
)
from benchmarks.float64 import contrast
from benchmarks.formulations import VIEWS, data_parallel_gradient, formulations

from ernie_vil2.losses.chunked import chunked_losses
from ernie_vil2.losses.pairs import Pair, Term
from ernie_vil2.losses.plain import plain_losses
from ernie_vil2.losses.targets import Targets
from ernie_vil2.views import DEFAULT_PAIRS

LOGIT_SCALE = 1 / 0.07
SIGMOID_BIAS = -10.0
MEMORY_BOUND, TIME_BOUND = 1 / 8, 1.25  # chunked against plain at the largest global batch
_SLOW = 2.0  # seconds; a peer's step that takes longer is timed once


def run(report: Report, options) -> None:
    # first, while this process is small
    memory = memory_table(report, options)
    error_tables(report, options)
    formulation_table(report, options)
    times = time_table(report, memory, options)
    ratio_table(report, memory, times, options)


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


# -- errors ----------------------------------------------------------------------------------------


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
        for chunk in (None, *of_kind):
            found = float32(everything, rows, ids, bias, chunk)
            path = "plain" if chunk is None else f"chunked by {chunk:,}"
            wrong = {key: relative_error(found[key], value) for key, value in expected.items()}
            yield {"targets": name, "path": path, **wrong}


def float32(everything: np.ndarray, rows: int, ids, bias: float | None, chunk: int | None) -> dict:
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
    targets = Targets({s: x[:rows] for s, x in ids.items()}, valid[:rows], ids, valid)
    kind = "softmax" if bias is None else "sigmoid"
    terms = [Term.of(Pair(a, b, loss=kind), VIEWS) for a, b in DEFAULT_PAIRS]
    scales, biases = (paddle.concat([leaves[key]] * len(terms)) for key in ("scale", "bias"))
    inputs = (leaves["rows"], leaves["columns"], scales, biases, targets, terms)
    losses, _ = plain_losses(*inputs) if chunk is None else chunked_losses(*inputs, chunk)
    losses.sum().backward()
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}
    return {"loss": float(losses.sum()), **gradients}


# -- formulations ----------------------------------------------------------------------------------


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


# -- memory and time -------------------------------------------------------------------------------


def _inputs(everything: np.ndarray, rows: int) -> tuple:
    """Rows of rank 0, columns of all ranks, and the logit scale, each with a gradient."""
    found = (
        paddle.to_tensor(everything[:rows]),
        paddle.to_tensor(everything),
        paddle.to_tensor([LOGIT_SCALE]),
    )
    for tensor in found:
        tensor.stop_gradient = False
    return found


def _step(loss, inputs: tuple) -> None:
    """Forward and backward of rank 0's loss."""
    rows, columns, scale = inputs
    loss(rows, columns, 0, scale).backward()
    for tensor in inputs:
        tensor.clear_gradient(False)


def memory_of(
    numbers: list[int], rows: int, sizes: list[int], dim: int, chunks: list[int], limit: float
):
    """Of these formulations, for each size: whether it was run, and bytes beside the inputs.

    What would need more than `limit` is estimated from the size before.
    """
    return [_memory_of(formulations(chunks)[n], rows, sizes, dim, limit) for n in numbers]


def _memory_of(formulation, rows, sizes, dim, limit):
    _step(formulation.loss, _inputs(embeddings(rows, 8), rows))  # threads, buffers of the BLAS
    found = []
    for size, previous in zip(sizes, (None, *sizes)):
        estimate = found[-1][1] * _growth(formulation, size / previous) if previous else 0
        if estimate > limit:
            found.append((False, estimate))
            continue
        inputs = _inputs(embeddings(size, dim), rows)
        found.append((True, extra_memory(lambda inputs=inputs: _step(formulation.loss, inputs))))
        del inputs
    return found


def _growth(formulation, factor: float) -> float:
    return factor**2 if formulation.square else factor


def _size_columns(options, cell) -> dict:
    def tried(value):
        done, number = value
        return cell(number) if done else f"about {cell(number)}: not run"

    heads = {str(size): (f"N = {size:,}", tried) for size in options.sizes}
    return {"name": ("formulation", str), "whose": ("whose", str), **heads}


def memory_table(report: Report, options) -> list[dict]:
    all_formulations = formulations(options.chunks)
    numbers = list(range(len(all_formulations)))
    found = []
    for group in [numbers] if options.quick else [[number] for number in numbers]:
        found += run_apart(
            "benchmarks.loss",
            "memory_of",
            numbers=group,
            rows=options.rows,
            sizes=options.sizes,
            dim=options.dim,
            chunks=options.chunks,
            limit=options.memory_limit * 2**30,
        )
    rows = [
        {"name": each.name, "whose": each.whose, **dict(zip(map(str, options.sizes), of_sizes))}
        for each, of_sizes in zip(all_formulations, found)
    ]
    report.table(
        "memory",
        f"Memory of one rank's loss, forward and backward, by global batch N: {options.rows:,} "
        f"local rows, {options.dim} numbers",
        _size_columns(options, mebibytes),
        rows,
        "Peak resident memory less that before, inputs not counted, gradients of the columns "
        "counted; each formulation in a fresh process.",
    )
    return rows


def time_table(report: Report, memory: list[dict], options) -> list[dict]:
    all_formulations = formulations(options.chunks)
    rows = [{"name": each.name, "whose": each.whose} for each in all_formulations]
    for size, previous in zip(options.sizes, (None, *options.sizes)):
        run = []
        for each, row, needed in zip(all_formulations, rows, memory):
            estimate = row[str(previous)][1] * _growth(each, size / previous) if previous else 0
            row[str(size)] = (False, estimate)
            affordable = each.whose == "ours" or estimate <= options.time_limit
            if affordable and needed[str(size)][0]:
                run.append((each, row))
        inputs = _inputs(embeddings(size, options.dim), options.rows)
        for _ in range(options.repeats):  # alternating, so that a busy machine slows all alike
            for each, row in run:
                done, best = row[str(size)]
                if done and best > _SLOW and each.whose != "ours":
                    continue
                start, processor = time.perf_counter(), time.process_time()
                _step(each.loss, inputs)
                took = {"": time.perf_counter() - start, "_cpu": time.process_time() - processor}
                for kind, value in took.items():
                    before = row[f"{size}{kind}"][1] if done else value
                    row[f"{size}{kind}"] = (True, min(before, value))
    report.table(
        "time",
        f"Time of the same, least of {options.repeats} alternating repetitions",
        _size_columns(options, seconds),
        rows,
        f"A peer's step of more than {_SLOW:.0f} s is run once.",
    )
    return rows


def ratio_table(report: Report, memory: list[dict], times: list[dict], options) -> None:
    largest = str(options.sizes[-1])

    def ratio(table, number, kind=""):
        (plain_run, plain), (run, chunked) = (
            table[n].get(largest + kind, (False, 0)) for n in (0, number)
        )
        return chunked / plain if run and plain_run else None

    rows = [
        {
            "chunk": chunk,
            "memory": ratio(memory, number),
            "time": ratio(times, number),
            "processor": ratio(times, number, "_cpu"),
        }
        for number, chunk in enumerate(options.chunks, start=1)
    ]
    report.table(
        "ratios",
        f"Chunked against plain at N = {options.sizes[-1]:,}",
        {
            "chunk": ("columns at a time", lambda value: f"{value:,}"),
            "memory": (f"memory (at most {MEMORY_BOUND})", lambda value: f"{value:.3f}"),
            "time": (f"time (at most {TIME_BOUND})", lambda value: f"{value:.2f}"),
            "processor": ("processor time", lambda value: f"{value:.2f}"),
        },
        rows,
        "Processor time counts where other programs keep the machine busy.",
    )
