"""What every command-line tool shares: `-c`, `-o`, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Callable

from ernie_vil2.errors import UserError
from ernie_vil2.os_errors import explain

# What an installation may lack: the package as it is imported -> the extras that bring it.
EXTRAS = {
    **dict.fromkeys(["paddle", "paddleclas", "paddlenlp"], "cpu or gpu"),
    **dict.fromkeys(["jinja2", "safetensors", "tqdm", "visualdl"], "cpu or gpu"),
    **dict.fromkeys(["fastapi", "h11", "prometheus_client", "python_multipart"], "serve"),
    **dict.fromkeys(["pydantic", "starlette", "uvicorn"], "serve"),
    **dict.fromkeys(["onnx", "onnxruntime", "paddle2onnx"], "onnx"),
    "ray": "ray",
    "lancedb": "search",
    "pymilvus": "milvus",
}


def parser(description: str, required: bool = True) -> argparse.ArgumentParser:
    """A parser with `-c FILE`, `required` or not, and `add_override`'s `-o`."""
    result = argparse.ArgumentParser(description=description)
    add = result.add_argument
    add("-c", "--config", required=required, metavar="FILE", help="YAML configuration")
    add_override(result)
    return result


OVERRIDE = ("-o", "--override")


def add_override(parser: argparse.ArgumentParser, names: Sequence[str] = OVERRIDE) -> None:
    """Add `-o Section.key=value ...`, several after one -o and -o again; or by other names."""
    parser.add_argument(
        *names,
        action="extend",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help=f"override keys of the configuration, e.g. {names[0]} Global.seed=1 "
        "Loss.pairs.0.weight=0.5",
    )


def add_weights(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add `-w`, the weights of a trained model."""
    parser.add_argument(
        "-w",
        "--weights",
        required=required,
        help="a checkpoint or run folder, PaddleNLP ErnieViLModel folder, official .pdparams, or a "
        "name that PaddleNLP has released, as ernie_vil-2.0-base-zh (downloaded)",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add `--precision` and `--device`, how an exported model runs."""
    parser.add_argument(
        "--precision",
        default="fp32",
        help="of the model, one that was exported: fp32, bf16, int8 or fp16 (%(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, gpu or gpu:1 (%(default)s)")


def whole(low: int, high: int) -> Callable[[str], int]:
    """The `type` of an argument that is a whole number from `low`, at least 0, to `high`."""

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= 12
        if not digits or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{shortened(text)} is no whole number from {low} to {high}"
            )
        return int(text)

    return parse


positive = whole(1, 999_999_999)  # of records, of steps
port = whole(1, 65_535)  # of TCP


def share(text: str) -> float:
    """The `type` of an argument that is a number from 0 to 1."""
    if not re.fullmatch(r"0|1|[01]?\.\d{1,9}", text) or float(text) > 1:
        raise argparse.ArgumentTypeError(f"{shortened(text)} is no number from 0 to 1")
    return float(text)


def shortened(text: str) -> str:
    """An argument as an error quotes it: what a user pastes by mistake may be long."""
    return repr(text if len(text) <= 20 else f"{text[:20]}...")


def run(main: Callable[[list | None], int | None], argv: list | None = None) -> int:
    """Call `main(argv)` and return the exit code: 0 done, 2 the user's mistake (one line), 1 else.

    What the operating system refuses is one line too. Anything else keeps its traceback, which
    Python turns into exit code 1.
    """
    with _interrupts() as interrupted:
        try:
            return main(argv) or 0
        except UserError as error:
            return _say(f"error: {error}", 2)
        except BrokenPipeError:  # the reader of our output went away, as in `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            explained = explain(error)
            if explained is None:
                raise
            return _say(f"error: {explained[0]}", explained[1])
        except BaseException as error:
            # within an import Ctrl-C may come out as another error, and half-imported modules
            if interrupted or isinstance(error, KeyboardInterrupt):
                return _say("interrupted", 1)
            lacking = isinstance(error, ModuleNotFoundError) and _lacking(error)
            if lacking:
                return _say(f"error: {lacking}", 2)
            raise


def _lacking(error: ModuleNotFoundError) -> str | None:
    """What an installation lacks, in one line; None for a module that should be there."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return (
        f"{package} is not installed: install ernie_vil2 with its extra {EXTRAS[package]}, or "
        "what requirements.txt lists"
    )


def _say(line: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be a file on the full disk
        print(line, file=sys.stderr)
    return code


@contextlib.contextmanager
def _interrupts() -> Iterator[list]:
    """Inside, Ctrl-C is a KeyboardInterrupt as ever; the list is not empty once there was one."""
    seen: list = []

    def interrupt(number, frame):
        if _paddle_is_being_imported():
            # it would print lines of its own; nothing is begun yet that could be left half-done
            _say("interrupted", 1)
            os._exit(1)
        seen.append(number)
        raise KeyboardInterrupt

    # not where a caller has a handler of its own, or another thread may not set one
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _in_main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _paddle_is_being_imported() -> bool:
    spec = getattr(sys.modules.get("paddle"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
