"""`bench.py step`: a training step of the base towers, ours, PyTorch's and PaddleNLP's."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ernie_vil2 import cli
from ernie_vil2.errors import UserError

ABOUT = """Time of a training step on a CPU: ours, bare and as the trainer takes it, the same
towers in plain PyTorch, and PaddleNLP's ErnieViLModel, in turns, with equal gradients."""
QUICK = {
    "batch": 2,
    "depth": 2,
    "width": 64,
    "heads": 2,
    "image": 32,
    "tokens": 8,
    "vocabulary": 100,
    "rounds": 1,
    "steps": 1,
    "views": ["pair"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark; the defaults are those of configs/base.yaml."""
    sizes = {
        "batch": (4, "records of a step"),
        "depth": (12, "blocks of each tower"),
        "width": (768, "of both towers"),
        "heads": (12, "of each block"),
        "image": (224, "side in pixels"),
        "tokens": (48, "of a text"),
        "vocabulary": (40000, "tokens"),
        "rounds": (2, "in which all take turns"),
        "steps": (3, "timed in each"),
    }
    for name, (default, what) in sizes.items():
        parser.add_argument(
            f"--{name}", type=cli.positive, default=default, help=f"{what} ({default})"
        )
    parser.add_argument(
        "--torch-python",
        metavar="PATH",
        default="python3",
        help="a Python with PyTorch: pip install torch numpy, in an environment of its own "
        "(python3; without torch its row is left out)",
    )
    parser.add_argument(
        "--avx2", action="store_true", help="keep every library to AVX2, as most machines have it"
    )
    parser.add_argument(
        "--views",
        nargs="+",
        choices=["pair", "all"],
        default=["pair", "all"],
        help="image1 with text1, and the four pairs of configs/base.yaml (both)",
    )
    parser.add_argument("--without-paddlenlp", action="store_true", help="leave the slowest out")


def check(options) -> None:
    """Raise UserError for what cannot run."""
    if shutil.which(options.torch_python) is None:
        raise UserError(f"--torch-python {options.torch_python}: there is no such program")
    if options.width % options.heads:
        raise UserError(f"--width {options.width} is no multiple of --heads {options.heads}")
    options.torch_python = str(Path(shutil.which(options.torch_python)).absolute())


def run(report, options) -> None:
    """Print the tables."""
    from benchmarks.step_tables import step_tables

    step_tables(report, options)
