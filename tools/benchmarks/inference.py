"""`bench.py inference`: PaddleNLP, our export and ONNX Runtime side by side; start; the server."""

from __future__ import annotations

import argparse
from pathlib import Path

from ernie_vil2 import cli
from ernie_vil2.errors import UserError

ABOUT = """Images/s, texts/s and latency of PaddleNLP's ErnieViLModel, of our export in each
precision and of ONNX Runtime, in turns; the start of a process; the HTTP server."""
QUICK = {"batches": [1, 3], "server_batches": [4], "rounds": 1, "seconds": 0.02}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument(
        "-w", "--weights", type=Path, help="what tools/export.py takes (a base model, random)"
    )
    parser.add_argument(
        "-c", "--config", type=Path, help="of official weights: a configuration with their Arch"
    )
    parser.add_argument(
        "--batches",
        type=cli.positive,
        nargs="+",
        default=[1, 8, 32, 64],
        metavar="B",
        help="images or texts of a run (1 8 32 64)",
    )
    parser.add_argument(
        "--server-batches", type=cli.positive, nargs="+", default=[8, 32], help="(8 32)"
    )
    parser.add_argument(
        "--rounds", type=cli.positive, default=3, help="in which all take turns (3)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of runs of one kind in a round (1)"
    )


def check(options) -> None:
    """Raise UserError for sizes that make no sense."""
    if not 0 < options.seconds < 600:
        raise UserError(f"--seconds {options.seconds}: expected a number above 0 and below 600")
    for name in ("weights", "config"):
        path = getattr(options, name)
        if path and not path.exists():
            raise UserError(f"--{name} {path}: there is no such file or folder")


def run(report, options) -> None:
    """Print the tables."""
    from benchmarks.inference_tables import inference_tables

    inference_tables(report, options)
