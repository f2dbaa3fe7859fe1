"""Does an evaluation amid training score what is saved, under each precision and with averages?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import launch, run_apart

from tools.gpu_check import runs
from tools.gpu_check.rows import Row, Setting, at_most, holds

_STEPS, _EVERY = 8, 4
# Of 16 pictures and texts: one that moves from the first place is 3 % of the mean recall at 1.
_MOVED = {"O0": 0.0, "O1": 0.1, "O2": 0.1}


def amid_training(setting: Setting) -> Iterator[Row]:
    """A run's own recalls, and those of the checkpoint that it saved at that step."""
    for level, bound in _MOVED.items():
        title = f"{level}, EMA"
        config = runs.write(
            setting,
            level,
            Global={"max_steps": _STEPS, "eval_interval": _EVERY, "save_interval": _EVERY},
            EMA={"decay": 0.9},
            AMP={"level": level},
        )
        launch(
            setting.processes, config.parent / "logs", "tools.gpu_check.runs", "train",
            gpus=setting.gpus, argv=["-c", str(config)],
        )  # fmt: skip
        found = runs.metrics(config.parent / "out", "eval/mean_recall")
        steps = list(range(_EVERY, _STEPS + 1, _EVERY))
        good = sorted(found) == steps and all(math.isfinite(x) for x in found.values())
        told = ", ".join(f"{value:.3f}" for value in found.values())
        yield holds(f"{title}: recalls at steps {steps}", good, told, "finite")
        again = run_apart("tools.gpu_check.evaluation", "score", config=str(config), step=_STEPS)
        difference = abs(again - found[_STEPS])
        yield at_most(f"{title}: recall of what was saved, difference", difference, bound)


def score(config: str, step: int) -> float:
    """In a process: the mean recall of a checkpoint, in float32."""
    from ernie_vil2.config.load import load_config
    from ernie_vil2.evaluation.pipeline import evaluate

    folder = Path(config).parent / "out"
    weights = folder / "checkpoints" / f"step_{step:08d}"
    report = evaluate(weights, load_config(config), folder / "score", examples=0)
    return report["mean_recall"]


CHECKS = {"evaluation amid training": amid_training}
