"""What every command-line tool shares: `-c`, `-o`, exit codes."""

import argparse
import os
import sys
from typing import Callable, Optional

from ernie_vil2.errors import UserError


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


def port(text: str) -> int:
    """The `type` of an argument that is a port of TCP."""
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no port: expected 1 to 65535")
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
