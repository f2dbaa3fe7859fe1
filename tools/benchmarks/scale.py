"""`bench.py scale`: batches larger than memory, and more than one process."""

from __future__ import annotations

import argparse

from ernie_vil2 import cli
from ernie_vil2.errors import UserError

ABOUT = """The real towers and trainer: memory and time of a step by local batch, and steps on 1, 2
and 4 processes over gloo against one process and against float64."""
QUICK = {
    "batches": [4, 6],
    "micro": 4,
    "image": 32,
    "width": 32,
    "depth": 1,
    "repeats": 1,
    "processes": [1, 2],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument(
        "--batches",
        type=cli.positive,
        nargs="+",
        default=[8, 16, 32, 64, 128],
        metavar="B",
        help="local batches, ascending (8 16 32 64 128)",
    )
    parser.add_argument("--micro", type=cli.positive, default=8, help="micro_batch_size (8)")
    parser.add_argument(
        "--image", type=cli.positive, default=96, help="side of the images in pixels (96)"
    )
    parser.add_argument("--width", type=cli.positive, default=192, help="of both towers (192)")
    parser.add_argument("--depth", type=cli.positive, default=4, help="layers of each tower (4)")
    parser.add_argument("--repeats", type=cli.positive, default=3, help="of each timing (3)")
    parser.add_argument(
        "--processes",
        type=cli.positive,
        nargs="+",
        default=[1, 2, 4],
        metavar="W",
        help="numbers of processes; 1 is the reference (1 2 4)",
    )


def check(options) -> None:
    """Raise UserError for sizes that make no sense."""
    if options.processes[0] != 1 or not {*options.processes} <= {1, 2, 4, 8}:
        raise UserError(
            f"--processes {options.processes}: expected 1, which the others are compared with, "
            "then some of 2, 4 and 8"
        )


def run(report, options) -> None:
    """Print the tables."""
    from benchmarks.accumulation import accumulation_tables
    from benchmarks.processes import process_table

    accumulation_tables(report, options)
    process_table(report, options)
