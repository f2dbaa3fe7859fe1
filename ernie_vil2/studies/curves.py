"""What a run wrote down on its way: its `metrics.jsonl`, read as curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ernie_vil2.errors import UserError

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Curves:
    """The numbers of one run.

    Attributes:
        rows: step -> name -> value, steps in order.
        seconds: step -> seconds spent on steps until then, without evaluations and checkpoints.
    """

    rows: Mapping[int, Mapping[str, float]]
    seconds: Mapping[int, float]

    def line(self, name: str) -> tuple[list[int], list[float], list[float]]:
        """Steps, seconds and values of one name, where it was written down."""
        steps = [step for step, row in self.rows.items() if name in row]
        return steps, [self.seconds[s] for s in steps], [self.rows[s][name] for s in steps]

    @property
    def names(self) -> list[str]:
        return sorted({name for row in self.rows.values() for name in row})


def read_curves(run: Path) -> Curves:
    """The curves of a run's folder.

    Raises:
        UserError: there is no `metrics.jsonl`, or it is none.
    """
    path = run / METRICS
    rows: dict[int, dict[str, float]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            # a step that was taken again after a resume stands twice: the later one counts
            known = rows.setdefault(int(row["step"]), {})
            known.update((k, v) for k, v in row.items() if isinstance(v, (int, float)))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}: expected a run's folder"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no log of a run: {error}") from None
    if not rows:
        raise UserError(f"{path} is empty: the run has not come to a step that it logs")
    rows = dict(sorted(rows.items()))
    return Curves(rows, _seconds(rows))


def _seconds(rows: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """What `Curves.seconds` is, from the rates: the clock runs during evaluations too."""
    timed = [(step, row) for step, row in rows.items() if row.get("train/pairs_per_second")]
    pairs = 0.0  # of a step, on all processes: what most pairs of lines agree on
    if len(timed) > 1:
        pairs = statistics.median(
            row["train/pairs_per_second"] * (row["time"] - before["time"]) / (step - last)
            for (last, before), (step, row) in zip(timed, timed[1:])
        )
    spent, last, result = 0.0, 0, {}
    for step, row in rows.items():
        rate = row.get("train/pairs_per_second")
        if rate:
            spent += (step - last) * pairs / rate
            last = step
        result[step] = spent
    return result
