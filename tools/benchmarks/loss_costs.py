"""Memory and time of one rank's loss with a simulated gather."""

from __future__ import annotations

import time

import numpy as np
import paddle
from benchmarks.common import Report, extra_memory, mebibytes, run_apart, seconds
from benchmarks.formulations import LOGIT_SCALE, Formulation, embeddings, formulations

MEMORY_BOUND, TIME_BOUND = 1 / 8, 1.25  # chunked against plain at the largest global batch
_SLOW = 2.0  # seconds; a peer's step that takes longer is timed once


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


def _step(formulation: Formulation, inputs: tuple) -> None:
    """Forward and backward of rank 0's loss."""
    rows, columns, scale = inputs
    if formulation.travelling:
        columns = columns.detach()
    formulation.loss(rows, columns, 0, scale).backward()
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
    _step(formulation, _inputs(embeddings(rows, 8), rows))  # threads, buffers of the BLAS
    found = []
    for size, previous in zip(sizes, (None, *sizes)):
        estimate = found[-1][1] * _growth(formulation, size / previous) if previous else 0
        if estimate > limit:
            found.append((False, estimate))
            continue
        inputs = _inputs(embeddings(size, dim), rows)
        found.append((True, extra_memory(lambda inputs=inputs: _step(formulation, inputs))))
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
            "benchmarks.loss_costs",
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
        "counted; each formulation in a fresh process. The ring's columns come as copies, one "
        "rank's after the other, and their gradients leave: both counted while they are held.",
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
                _step(each, inputs)
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
