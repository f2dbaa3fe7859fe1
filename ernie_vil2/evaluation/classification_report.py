"""A report of classification for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ernie_vil2.evaluation.accuracy import figures, mistaken
from ernie_vil2.evaluation.report import percent, recall_cells

SPOKEN = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class"}


def format_classification(report: Mapping[str, Any], mistakes: int = 5) -> str:
    """The report of `classify` as lines, in percent, with its most frequent mistakes."""
    rows = [["", "accuracy, %", "95 % interval", "chance"]]
    rows += [[SPOKEN[name], *recall_cells(dict(report), name)] for name in figures(report)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    named = [each["name"] for each in report["per_class"]]
    for place, other, number in mistaken(report, mistakes):
        share = percent(number / report["per_class"][place]["images"])
        lines.append(f"{named[place]}: {share} % taken for {named[other]}")
    return "\n".join([*lines, *counted(report)])


def counted(report: Mapping[str, Any]) -> list[str]:
    """What was counted and how, a line each."""
    empty = sum(not each["images"] for each in report["per_class"])
    lines = [
        f"{report['images']} images, {report['classes']} classes"
        + (f", {empty} of them without an image" if empty else ""),
        f"templates: {report['templates']}, {report['templates_from']}",
        f"protocol: {report['protocol']}",
    ]
    if report.get("bad_records"):
        lines.append(f"bad records left out: {report['bad_records']}")
    return lines
