"""The command lines: `main` of each module is what `tools/<name>.py` and `ernie-vil2` call.

Nothing of a command is imported before it is called, so that `--help` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys

import ernie_vil2
from ernie_vil2 import cli
from ernie_vil2.errors import UserError, did_you_mean

PROGRAM = "ernie-vil2"
COMMANDS = {
    "train": "train a model on multi-view image-text pairs",
    "eval": "evaluate image-text retrieval",
    "export": "export a model for Paddle Inference, Paddle Serving and ONNX",
    "serve": "serve an exported model over HTTP",
    "serve-paddle": "serve an exported model with Paddle Serving",
    "study": "train and compare the variants of a study",
    "plot": "draw the curves of runs",
    "index": "index folders of pictures, to search them",
    "search": "find pictures in a collection, in words or by a picture",
    "embed": "embed a whole set of pictures or texts with an exported model",
    "merge": "average the weights of two models or of many",
    "convert": "convert weights between the official code's, PaddleNLP's and our own format",
    "prepare-data": "write, measure and check data sets; make the demo set, or a vocabulary",
}


def main(argv: list | None = None) -> int | None:
    """`ernie-vil2 COMMAND ...`: call the command's main with the other arguments."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        _parser().parse_args(argv)  # ends here with --help and --version
        raise UserError(f"a command is missing: one of {', '.join(COMMANDS)}")
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(f"unknown command {name}{did_you_mean(name, COMMANDS)}")
    command = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    sys.argv[0] = f"{PROGRAM} {name}"  # argparse reads there what a usage line begins with
    return command.main(rest)


def console() -> int:
    """What the `ernie-vil2` on the PATH runs; returns the exit code."""
    return leave(cli.run(main))


def leave(code: int) -> int:
    """The exit code of a program that ends here; one of several processes ends in this call."""
    distributed = sys.modules.get("ernie_vil2.distributed")  # not imported: not used
    return distributed.leave(code) if distributed else code


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:{width}}{about}" for name, about in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND ...",
        description="ERNIE-ViL 2.0 on PaddlePaddle: multi-view contrastive image-text models.",
        epilog=f"commands:\n{listed}\n\n{PROGRAM} COMMAND --help says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"{PROGRAM} {ernie_vil2.__version__}"
    parser.add_argument("--version", action="version", version=version)
    return parser
