"""What a run writes down: train.log, metrics.jsonl, VisualDL, its configuration and versions."""

import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

log = logging.getLogger("ernie_vil2")


class _AboveTheBar(logging.Handler):
    """Prints lines so that a progress bar stays whole below them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def start_logging(output: Path, is_main: bool) -> None:
    """Log to the terminal and, on the main rank, to output/train.log; others only warn."""
    for handler in list(log.handlers):  # of an earlier run in this process
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel(logging.DEBUG if is_main else logging.WARNING)
    handlers: list = [_AboveTheBar(logging.INFO)]  # what the bar shows goes to the file alone
    if is_main:
        output.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(output / "train.log", encoding="utf-8"))
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
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if git.returncode == 0:
        found["git"] = git.stdout.strip()
    return found


class RunLog:
    """The main rank's files in `output`; a later run with the same output appends."""

    def __init__(self, output: Path, config):
        from visualdl import LogWriter  # slow to import, and other ranks do without

        output.mkdir(parents=True, exist_ok=True)
        config.dump(output / "config.yaml")
        log.info("versions: %s", ", ".join(f"{k} {v}" for k, v in versions().items()))
        self.visual = LogWriter(logdir=str(output / "vdl"))
        self.metrics = open(output / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115

    def scalars(self, step: int, values: Mapping) -> None:
        """One line in metrics.jsonl and one point a curve in VisualDL."""
        line = {"step": step, "time": round(time.time(), 3), **values}
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        for name, value in values.items():
            self.visual.add_scalar(name, value, step)

    def histograms(self, step: int, parameters: Mapping) -> None:
        """A histogram of every parameter."""
        for name, parameter in parameters.items():
            values = parameter.astype("float32").numpy().ravel()
            self.visual.add_histogram(name, values, step, buckets=50)

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Show uint8 [H, W, 3] at step 0."""
        self.visual.add_image(name, np.ascontiguousarray(pixels), 0)

    def text(self, name: str, value: str) -> None:
        """Show `value` at step 0."""
        self.visual.add_text(name, value, 0)

    def close(self) -> None:
        self.metrics.close()
        self.visual.close()


class Meter:
    """Means of losses, speed and the share of time spent waiting for data, between two reports."""

    def __init__(self):
        self._reset()

    def _reset(self) -> None:
        self.sums, self.steps, self.pairs = {}, 0, 0
        self.waited, self.since = 0.0, time.perf_counter()

    def timed(self, batches):
        """Pass `batches` on, taking the time that each `next` blocks."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, losses: Mapping, pairs: int) -> None:
        """Take one step in; the losses stay on the device, so that it is not waited for."""
        for name, value in losses.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1
        self.pairs += pairs

    def collect(self) -> dict:
        """This process's means since the last call: losses, pairs_per_second, data_wait (0..1)."""
        values = {name: float(total) / self.steps for name, total in self.sums.items()}
        elapsed = time.perf_counter() - self.since
        values["pairs_per_second"] = self.pairs / elapsed
        values["data_wait"] = min(1.0, self.waited / elapsed)
        self._reset()
        return values
