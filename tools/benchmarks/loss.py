"""`bench.py loss`: one rank's loss with a simulated gather: errors, memory, time."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.errors import UserError

ABOUT = """The loss alone, on one process with a simulated gather: errors against float64, memory
and time of the plain and the chunked path and of what other programs compute."""
QUICK = {
    "rows": 32,
    "sizes": [128, 256],
    "dim": 32,
    "chunks": [32, 100],
    "ranks": 4,
    "small_global": 64,
    "error_rows": 32,
    "repeats": 1,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument(
        "--rows", type=cli.positive, default=1024, metavar="B", help="local rows (1024)"
    )
    parser.add_argument(
        "--sizes",
        type=cli.positive,
        nargs="+",
        default=[4096, 8192, 16384, 32768],
        metavar="N",
        help="global batches, ascending (4096 8192 16384 32768)",
    )
    parser.add_argument(
        "--dim", type=cli.positive, default=768, help="numbers of an embedding (768)"
    )
    parser.add_argument(
        "--chunks",
        type=cli.positive,
        nargs="+",
        default=[1024, 4096],
        help="columns at a time (1024 4096)",
    )
    parser.add_argument(
        "--ranks", type=cli.positive, default=8, help="simulated ranks of the gradients (8)"
    )
    parser.add_argument(
        "--small-global", type=cli.positive, default=1024, help="records of the gradients (1024)"
    )
    parser.add_argument(
        "--error-rows", type=cli.positive, default=128, help="rows compared with float64 (128)"
    )
    parser.add_argument("--repeats", type=cli.positive, default=3, help="of each timing (3)")
    parser.add_argument(
        "--memory-limit", type=float, default=8.0, help="GiB; what needs more is not run (8)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=30.0, help="seconds; a longer step is not run (30)"
    )


def check(options) -> None:
    """Raise UserError for sizes that make no sense."""
    if sorted(set(options.sizes)) != options.sizes or options.sizes[0] < options.rows:
        raise UserError(
            f"--sizes {options.sizes}: expected ascending numbers from --rows, {options.rows}"
        )
    for name, rows in (("--rows", options.rows), ("--error-rows", options.error_rows)):
        if any(size % min(rows, size) for size in [*options.sizes, options.small_global]):
            raise UserError(
                f"{name} {rows}: expected a number that divides --sizes and --small-global, since "
                "the ranks of a ring have as many rows"
            )
    if options.sizes[0] > 8192:
        raise UserError(
            f"--sizes begins with {options.sizes[0]}: begin with 8192 or less, from which is "
            "estimated what does not fit into memory"
        )
    if options.small_global % options.ranks:
        raise UserError(
            f"--small-global {options.small_global} records cannot be shared out among "
            f"--ranks {options.ranks}: expected a multiple"
        )


def run(report, options) -> None:
    """Print the tables."""
    from benchmarks import loss_costs, loss_errors

    memory = loss_costs.memory_table(report, options)  # first, while this process is small
    loss_errors.error_tables(report, options)
    loss_errors.formulation_table(report, options)
    times = loss_costs.time_table(report, memory, options)
    loss_costs.ratio_table(report, memory, times, options)
