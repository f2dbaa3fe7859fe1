"""What a run writes down: train.log, metrics.jsonl, curves, its configuration and versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ernie_vil2.config.load import Config
from ernie_vil2.files.durable import append, replaced
from ernie_vil2.training.sinks import open_sinks, open_to_append

log = logging.getLogger("ernie_vil2")


class _AboveTheBar(logging.Handler):
    """Prints lines so that a progress bar stays whole below them."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a file on a full disk
            tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """Says once, instead of with a traceback a line, that the disk takes no more."""

    warned = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # it was closed, and is opened again for a last line: its folder is gone
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.warned:
            self.warned = True
            log.warning("lines of %s are lost: %s", self.baseFilename, error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _Unfailing:
    """stdout or stderr, which may be files on a full disk too: no output is worth a run."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def start_logging(output: Path, is_main: bool) -> None:
    """Log to the terminal and, on the main rank, to output/train.log; others only warn.

    From here on, neither of the two, nor anything printed, fails for want of disk space.
    """
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), _Unfailing):
            setattr(sys, name, _Unfailing(stream))
    for handler in list(log.handlers):  # of an earlier run in this process
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel(logging.DEBUG if is_main else logging.WARNING)
    handlers: list = [_AboveTheBar(logging.INFO)]  # what the bar shows goes to the file alone
    if is_main:
        output.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(output / "train.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)


def versions() -> dict:
    """Versions of Python and of the packages that decide a run's numbers, and the git commit."""
    found = {"python": platform.python_version()}
    for name in (
        "ernie_vil2",
        "paddlepaddle",
        "paddlepaddle-gpu",
        "paddlenlp",
        "paddleclas",
        "numpy",
        "opencv-python",
        "opencv-python-headless",
        "pillow",
        "simplejpeg",  # if it is here, it decodes the JPEGs
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository
        git = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        found["git"] = git.stdout.strip()
    return found


class SilentLog:
    """What the other ranks have in place of a `RunLog`: it writes nothing."""

    def scalars(self, step: int, values: Mapping) -> None:
        """One line in metrics.jsonl and one point a curve elsewhere."""

    def histograms(self, step: int, parameters: Mapping) -> None:
        """A histogram of every parameter."""

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Show uint8 [H, W, 3] at step 0."""

    def text(self, name: str, value: str) -> None:
        """Show `value` at step 0."""

    def close(self) -> None:
        """Write no more."""


class RunLog(SilentLog):
    """The main rank's files in `output`; a later run with the same output appends.

    A full disk costs what is to be written, whole, with a warning, and not the run.
    """

    def __init__(self, output: Path, config: Config):
        output.mkdir(parents=True, exist_ok=True)
        with replaced(output / "config.yaml") as draft:
            config.dump(draft)
        log.info("versions: %s", ", ".join(f"{k} {v}" for k, v in versions().items()))
        self.sinks = open_sinks(output, config)
        self.metrics = open_to_append(output / "metrics.jsonl")

    def scalars(self, step: int, values: Mapping) -> None:
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n"
        with _warned(f"the metrics of step {step}"):
            append(self.metrics, line.encode())
            for sink in self.sinks:
                sink.scalars(step, values)

    def histograms(self, step: int, parameters: Mapping) -> None:
        with _warned(f"the histograms of step {step}"):
            for name, parameter in parameters.items():
                values = parameter.astype("float32").numpy().ravel()
                for sink in self.sinks:
                    sink.histogram(step, name, values)

    def picture(self, name: str, pixels: np.ndarray) -> None:
        with _warned(name):
            for sink in self.sinks:
                sink.picture(name, pixels)

    def text(self, name: str, value: str) -> None:
        with _warned(name):
            for sink in self.sinks:
                sink.text(name, value)

    def close(self) -> None:
        os.close(self.metrics)
        for sink in self.sinks:
            sink.close()


@contextlib.contextmanager
def _warned(what: str):
    try:
        yield
    except OSError as error:
        log.warning("not written: %s (%s)", what, error)


def open_run_log(output: Path, config: Config, is_main: bool) -> SilentLog:
    """The run's log on the main rank, a silent one on all others."""
    return RunLog(output, config) if is_main else SilentLog()
