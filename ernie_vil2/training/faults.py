"""Steps that would harm the model: recognised, skipped and written down."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from pathlib import Path
from statistics import median

from ernie_vil2.files.durable import append

log = logging.getLogger("ernie_vil2")

_WINDOW = 100  # losses whose median a spike is measured by
_ENOUGH = 20  # of them, before that is done


class Diverged(Exception):
    """Rolling back did not help, or there was nothing to roll back to."""


class Faults:
    """Judges each step by its loss and gradient norm; the same on every rank.

    Args:
        spike: how many times the median loss is too much; None: any finite loss will do.
        skips: faults in a row after which the run has to be rolled back.
    """

    def __init__(self, path: Path, spike: float | None, skips: int):
        self.path, self.spike, self.skips = path, spike, skips
        self.losses: deque = deque(maxlen=_WINDOW)
        self.total = self.in_a_row = self.rollbacks = 0

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """What is wrong with a step, or None; counts it."""
        fault = self._fault(loss, gradient_norm)
        if fault is None:
            self.in_a_row = 0
            self.losses.append(loss)
        else:
            self.in_a_row += 1
            self.total += 1
        return fault

    def _fault(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient's norm is {gradient_norm}"
        if self.spike and len(self.losses) >= _ENOUGH:
            usual = median(self.losses)
            if loss > self.spike * usual:
                return f"the loss is {loss:.4g}, {loss / usual:.1f} times the usual {usual:.4g}"
        return None

    @property
    def hopeless(self) -> bool:
        """Whether so many steps in a row were faults that skipping does not help."""
        return self.in_a_row >= self.skips

    def rolled_back(self) -> None:
        """Start counting anew after a rollback."""
        self.rollbacks += 1
        self.in_a_row = 0

    def diverged(self, step: int, checkpoint: Path | None) -> Diverged:
        """What to raise where there is no way on after this step."""
        why = f"after {self.rollbacks} rollbacks" if checkpoint else "without a checkpoint"
        return Diverged(
            f"{self.in_a_row} steps in a row failed up to step {step}, {why}: see {self.path}; "
            "lower LRScheduler.learning_rate, or check the data"
        )

    def record(self, **event) -> None:
        """Warn of a skipped step, "step" and "reason" of `event`, and write all of it down."""
        log.warning("step %d is skipped: %s; %s", event["step"], event["reason"], self.path)
        try:
            self.write(**event)
        except OSError as error:  # the disk is full, say
            log.warning("not written (%s): %s", error, event)

    def write(self, **event) -> None:
        """Add a line to the file; JSON has null for NaN and infinity. Raises OSError."""
        event = {k: v if _is_json(v) else None for k, v in event.items()}
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with open(self.path, "ab", buffering=0) as file:
            append(file.fileno(), line.encode())

    def state_dict(self) -> dict:
        """What a resumed run needs to judge alike; JSON keeps floats exactly."""
        return {
            "losses": list(self.losses),
            "total": self.total,
            "in_a_row": self.in_a_row,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: dict) -> None:
        """The reverse of `state_dict`."""
        self.losses = deque(state["losses"], maxlen=_WINDOW)
        self.total, self.in_a_row = state["total"], state["in_a_row"]
        self.rollbacks = state["rollbacks"]


def _is_json(value) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
