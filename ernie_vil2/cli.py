"""What every command-line tool shares: `-c`, `-o`, exit codes."""

import argparse
import os
import sys
from typing import Callable, Optional

from ernie_vil2.errors import UserError

# What an installation may lack: the package as it is imported -> the extras that bring it.
EXTRAS = {
    **dict.fromkeys(["paddle", "paddleclas", "paddlenlp"], "cpu or gpu"),
    **dict.fromkeys(["safetensors", "tqdm", "visualdl"], "cpu or gpu"),
    **dict.fromkeys(["fastapi", "h11", "prometheus_client", "python_multipart"], "serve"),
    **dict.fromkeys(["pydantic", "starlette", "uvicorn"], "serve"),
    **dict.fromkeys(["onnx", "onnxruntime", "paddle2onnx"], "onnx"),
}


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with `-c FILE` and `-o Section.key=value ...`, several after one -o and -o again."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("-c", "--config", required=True, metavar="FILE", help="YAML configuration")
    result.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override keys of the configuration, e.g. -o Global.seed=1 Loss.pairs.0.weight=0.5",
    )
    return result


def positive(text: str) -> int:
    """The `type` of an argument that is a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def run(main: Callable[[Optional[list]], Optional[int]], argv: Optional[list] = None) -> int:
    """Call `main(argv)` and return the exit code: 0 done, 2 the user's mistake (one line), 1 else.

    Anything that is not a `UserError` keeps its traceback, which Python turns into exit code 1.
    """
    try:
        return main(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(
            f"error: {package} is not installed: install ernie_vil2 with its extra "
            f"{EXTRAS[package]}, or what requirements.txt lists",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
