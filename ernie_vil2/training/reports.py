"""What a run tells of its steps and evaluations, in its log and curves."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ernie_vil2 import distributed
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.evaluator import Evaluator
from ernie_vil2.training.runlog import SilentLog

log = logging.getLogger("ernie_vil2")


def report_steps(run_log: SilentLog, step: int, means: Mapping, state: Mapping) -> str:
    """Write down what the steps since the last report gave; returns a line of it.

    Args:
        means: what `Meter.collect` gives on each process, averaged here.
        state: further numbers, alike on all.
    """
    means = dict(zip(means, distributed.mean(list(means.values()))))
    means["pairs_per_second"] *= distributed.world_size()
    values = {f"train/{name}": round(value, 6) for name, value in {**means, **state}.items()}
    run_log.scalars(step, values)
    line = (
        f"loss {means['loss']:.3f}, scale {state['logit_scale']:.1f}, "
        f"{means['pairs_per_second']:.0f} pairs/s, data wait {means['data_wait']:.0%}"
    )
    log.debug("step %d: %s", step, line)
    return line


def report_evaluation(
    run_log: SilentLog, step: int, evaluator: Evaluator, embeddings: Embeddings
) -> float:
    """Write the recalls down; returns the one that chooses the best checkpoint."""
    report = evaluator.score(embeddings)
    recalls = _recalls(report, "eval")
    of_sources = {
        name: value
        for source, part in report.get("sources", {}).items()
        for name, value in _recalls(part, f"eval/{source}").items()
    }
    run_log.scalars(step, {**recalls, **of_sources})
    if report["bad_records"]:
        where = evaluator.ledger.path
        log.warning("%d bad rows were left out, see %s", report["bad_records"], where)
    log.info("step %d: %s", step, ", ".join(f"{n[5:]} {v:.2%}" for n, v in recalls.items()))
    return recalls[f"eval/{evaluator.metric.best}"]


def _recalls(report: Mapping, prefix: str) -> dict[str, float]:
    recalls = {
        f"{prefix}/{direction}/{name}": value
        for direction in ("text_to_image", "image_to_text")
        for name, value in report[direction].items()
        if name.startswith("R@") or name == "mean_recall"
    }
    return {**recalls, f"{prefix}/mean_recall": report["mean_recall"]}
