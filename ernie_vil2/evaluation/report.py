"""A retrieval report for people and programs: terminal table and JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ernie_vil2.files.durable import replacing

DIRECTIONS = {
    "text_to_image": "Text to image",
    "image_to_text": "Image to text",
    "image_to_image": "Image to image",
    "text_to_text": "Text to text",
}


def directions_of(report: dict[str, Any]) -> dict[str, str]:
    """Those of `DIRECTIONS` that a report has."""
    return {key: name for key, name in DIRECTIONS.items() if key in report}


def write_json(path: str | os.PathLike, report: dict[str, Any]) -> None:
    """The report of `evaluate_retrieval` as JSON; the file appears whole or not at all."""
    write_text(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def format_table(report: dict[str, Any]) -> str:
    """The report of `evaluate_retrieval` as lines for a terminal, in percent."""
    directions = directions_of(report)
    rows = [["", *[f"{name}, %" for name in directions.values()]]]
    rows.append(["", *["recall  95 % interval  chance"] * len(directions)])
    for name in recall_names(report):
        cells = []
        for direction in directions:
            recall, interval, chance = recall_cells(report[direction], name)
            cells.append(f"{recall:>6}  {interval:>13}  {chance:>6}")
        rows.append([spoken(name), *cells])
    for name in number_names(report):
        rows.append([spoken(name), *[f"{number(report[d][name]):>6}" for d in directions]])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if "mean_recall" in report:
        lines.append(f"mean recall of both directions: {percent(report['mean_recall'])} %")
    return "\n".join([*lines, *remarks(report)])


def write_text(path: str | os.PathLike, text: str) -> None:
    """A file, and its folder if missing; it appears whole or not at all."""
    with replacing(Path(path)) as draft:
        # a lone surrogate, which JSON lets into a caption, has no UTF-8
        draft.write_bytes(text.encode("utf-8", "replace"))


def recall_names(report: dict[str, Any]) -> list[str]:
    """What a report has with interval and chance, in order."""
    return [*(name for name in _first(report) if name.startswith("R@")), "mean_recall"]


def number_names(report: dict[str, Any]) -> list[str]:
    """What else a report has of each direction, in order."""
    names = ("mrr", "median_rank", "queries", "candidates")
    return [name for name in names if name in _first(report)]


def _first(report: dict[str, Any]) -> dict[str, Any]:
    """The first direction of a report: all of them have the same figures."""
    return report[next(iter(directions_of(report)))]


def remarks(report: dict[str, Any]) -> list[str]:
    """How it was counted and what was left out, a line each."""
    lines = [f"protocol: {report['protocol']}"] if "protocol" in report else []
    for name, part in report.get("sources", {}).items():
        lines.append(
            f"{name} alone: mean recall of both directions: {percent(part['mean_recall'])} %"
        )
    if report.get("bad_records"):
        lines.append(f"bad records left out: {report['bad_records']}")
    return lines


def recall_cells(scores: dict[str, Any], name: str) -> tuple[str, str, str]:
    """Recall, its interval and chance, in percent."""
    interval = "-".join(map(percent, scores["interval"].get(name, [])))
    return percent(scores[name]), interval, percent(scores["chance"][name])


def percent(share: float) -> str:
    """A share of 1, with one digit after the point."""
    return "<0.1" if 0 < share < 0.0005 else f"{100 * share:.1f}"


def number(value: float) -> str:
    """A mean reciprocal rank, a rank or a count."""
    if 0 < value < 1:  # no rank or count is
        return f"{value:.3f}"
    return f"{value:.1f}".removesuffix(".0")


def spoken(name: str) -> str:
    """The name of a figure for readers."""
    return "MRR" if name == "mrr" else name.replace("_", " ")
