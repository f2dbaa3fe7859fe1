"""A whole study: its runs, their summary and its page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ernie_vil2.files import durable
from ernie_vil2.studies.plan import Plan
from ernie_vil2.studies.runs import Run, call, run_all, words_of
from ernie_vil2.studies.summary import summarize

SUMMARY, PAGE = "study.json", "page.html"
_LENGTHS = "steps_of_equal_time.json"

_Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # variant -> seed -> result


def run_study(
    plan: Plan, processes: int = 1, ranks: int = 1, say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Do what is not done of a study, and write `study.json` and `page.html`.

    Args:
        processes: runs at a time.
        ranks: processes of a run.

    Returns:
        budget -> what `summarize` gives.

    Raises:
        UserError: a setting that no run can have; a run or command that failed.
    """
    runs = [Run(plan, variant, seed) for variant in plan.variants for seed in plan.seeds]
    for run in runs:  # before the first begins
        run.check()
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    for command in plan.before:
        words = words_of(command, plan, plan.seeds[0], str)
        say(f"ernie-vil2 {shlex.join(words)}")
        call(words, plan.output_dir / "before.log")
    results = {"steps": _grouped(runs, run_all(runs, processes, ranks, say))}
    if "time" in plan.equal:
        lengths = _steps_of_equal_time(plan, results["steps"])
        timed = [Run(plan, r.variant, r.seed, "time", lengths[r.variant.name]) for r in runs]
        results["time"] = _grouped(timed, run_all(timed, processes, ranks, say))
    summary = {budget: summarize(found, plan.figures) for budget, found in results.items()}
    durable.replace_text(plan.output_dir / SUMMARY, json.dumps(summary, indent=1) + "\n")

    from ernie_vil2.studies.page import write_page

    write_page(plan, summary)
    return {budget: summary[budget] for budget in plan.equal}


def _grouped(runs: list[Run], results: list[dict[str, Any]]) -> _Results:
    table: dict[str, dict[int, dict[str, Any]]] = {}
    for run, result in zip(runs, results):
        table.setdefault(run.variant.name, {})[run.seed] = result
    return table


def _steps_of_equal_time(plan: Plan, results: _Results) -> dict[str, int]:
    """Steps of each variant that take as long as the first variant's run.

    Measured in the runs of equal steps and then kept, so that a study that goes on after an
    interruption, or gets another variant, does not change its other runs.
    """
    path = plan.output_dir / _LENGTHS
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rates = {
        name: sum(run["seconds"] / run["steps"] for run in runs.values()) / len(runs)
        for name, runs in results.items()
    }
    first = next(iter(results))
    steps = next(iter(results[first].values()))["steps"]
    known = {n: max(1, round(steps * rates[first] / rate)) for n, rate in rates.items()} | known
    durable.replace_text(path, json.dumps(known, ensure_ascii=False, indent=1) + "\n")
    return known
