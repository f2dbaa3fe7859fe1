"""What a run does between two reports: means of its losses, its speed, its wait for data."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import paddle
from tqdm import tqdm

from ernie_vil2 import distributed
from ernie_vil2.data.formats.mixture import MixtureReader
from ernie_vil2.training.by_source import BySource

_Batch = TypeVar("_Batch")


class Meter:
    """Means of losses, speed and the share of time spent waiting for data, between two reports.

    Args:
        mixture: what the batches are read from, where it is one: each source has its means too.
    """

    def __init__(self, mixture: MixtureReader | None = None) -> None:
        self.by_source = BySource(mixture) if mixture else None
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, paddle.Tensor] = {}
        self.steps = self.pairs = 0
        self.waited, self.since = 0.0, time.perf_counter()

    def timed(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """Pass `batches` on, taking the time that each `next` blocks."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, losses: Mapping, batches: Sequence[list]) -> None:
        """Take one step in; the losses stay on the device, so that it is not waited for.

        Args:
            losses: as `Step.gradients` gives them.
            batches: those of the step, each in micro-batches.
        """
        if self.by_source:
            self.by_source.add(losses["by_row"], batches)
        for name, value in losses.items():
            if name == "by_row":
                continue
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1
        self.pairs += sum(len(b["valid"]) for batch in batches for b in batch)

    def collect(self) -> dict[str, float]:
        """This process's means since the last call: losses, pairs_per_second, data_wait (0..1).

        Those of a mixture's sources are all processes', which call this together.
        """
        values = {name: float(total) / self.steps for name, total in self.sums.items()}
        elapsed = time.perf_counter() - self.since
        values["pairs_per_second"] = self.pairs / elapsed
        values["data_wait"] = min(1.0, self.waited / elapsed)
        if self.by_source:
            values.update(self.by_source.collect())
        self._reset()
        return values


def progress_bar(step: int, total: int) -> tqdm:
    """A bar of the run's steps, on the main rank's terminal."""
    return tqdm(
        total=total,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file keeps every state of it
        disable=not distributed.is_main(),
    )
