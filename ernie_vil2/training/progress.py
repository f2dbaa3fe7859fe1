"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Progress:
    """Where a run is, and what it has reached.

    Attributes:
        step: optimizer steps done.
        batch: number of the next global batch in the data; a rollback leaves some out.
        best: the best score of an evaluation.
        evaluated_at: the step of the last evaluation.
        saved_at: the step of the last checkpoint.
    """

    step: int = 0
    batch: int = 0
    best: float | None = None
    evaluated_at: int | None = None
    saved_at: int | None = None

    def advance(self, batches: int) -> None:
        """Count a step over so many batches."""
        self.step += 1
        self.batch += batches

    def evaluated(self, score: float) -> bool:
        """Note an evaluation at this step; whether it is the best so far."""
        self.evaluated_at = self.step
        is_best = self.best is None or score > self.best
        if is_best:
            self.best = score
        return is_best

    def state_dict(self) -> dict:
        """What a checkpoint of this step holds of it."""
        return {
            "step": self.step,
            "batch": self.batch,
            "best": self.best,
            "evaluated_at": self.evaluated_at,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """The reverse of `state_dict`; checkpoints of old have no "batch"."""
        self.step = self.saved_at = state["step"]
        self.batch = state.get("batch", self.step)
        self.best, self.evaluated_at = state["best"], state["evaluated_at"]
