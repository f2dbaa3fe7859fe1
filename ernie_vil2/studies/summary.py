"""Many runs as a few numbers: means over seeds, their intervals, and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from ernie_vil2.errors import UserError, did_you_mean

LEVEL = 0.95


def figure(report: Mapping[str, Any], key: str) -> float:
    """A number of `report.json`, by its keys with "/" between.

    Raises:
        UserError: it has none of that name.
    """
    value: Any = report
    for part in key.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else []
            raise UserError(f"report.json has no {key}{did_you_mean(part, known)}")
        value = value[part]
    if not isinstance(value, (int, float)):
        raise UserError(f"{key} of report.json is {value!r}: expected a number")
    return float(value)


def query_interval(reports: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float] | None:
    """What another draw of queries would give, from the reports' bootstraps; a mean over seeds.

    None for a number that reports give no interval of.
    """
    *way, name = key.split("/")
    try:
        ends = [figure_interval(report, way, name) for report in reports]
    except KeyError:
        return None
    return (fmean([low for low, _ in ends]), fmean([high for _, high in ends]))


def figure_interval(report: Any, way: Sequence[str], name: str) -> tuple[float, float]:
    for part in way:
        report = report[part]
    low, high = report["interval"][name]
    return low, high


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """What other seeds would give on average: Student's t, 95 %. None for a single value."""
    if len(values) < 2:
        return None
    from scipy import stats

    mean = fmean(values)
    error = stdev(values) / math.sqrt(len(values))
    reach = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * error
    return mean - reach, mean + reach


def summarize(
    results: Mapping[str, Mapping[int, Mapping[str, Any]]], figures: Mapping[str, str]
) -> dict[str, Any]:
    """The numbers of each variant.

    Args:
        results: variant -> seed -> what `Run.train_and_evaluate` gave; the first variant is the one
            that the others are compared with.
        figures: name -> key of report.json.

    Returns:
        variant -> {"steps", "seconds": means; "figures": name -> {"values": seed -> value, "mean",
        "seeds", "queries": intervals [low, high] or None, "difference": {"mean", "interval"} from
        the first variant, seed by seed, None for the first}}.
    """
    first = next(iter(results.values()))
    table: dict[str, Any] = {}
    for name, runs in results.items():
        reports = {seed: run["report"] for seed, run in runs.items()}
        table[name] = {
            "steps": fmean([run["steps"] for run in runs.values()]),
            "seconds": fmean([run["seconds"] for run in runs.values()]),
            "figures": {},
        }
        for title, key in figures.items():
            values = {seed: figure(report, key) for seed, report in reports.items()}
            apart = [values[seed] - figure(first[seed]["report"], key) for seed in values]
            table[name]["figures"][title] = {
                "values": values,
                "mean": fmean(list(values.values())),
                "seeds": seed_interval(list(values.values())),
                "queries": query_interval(list(reports.values()), key),
                "difference": None
                if runs is first
                else {"mean": fmean(apart), "interval": seed_interval(apart)},
            }
    return table
