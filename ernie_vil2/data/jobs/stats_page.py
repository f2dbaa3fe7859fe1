"""The numbers of a data set as one HTML file that needs no other. Its template lies beside it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ernie_vil2.files.html import style, templates

_TEMPLATES = Path(__file__).parent / "templates"


def page(report: Mapping[str, Any]) -> str:
    """HTML of what `write_stats` has counted."""
    groups = {
        "Pictures": _plots(report["pictures"]),
        "Texts": _plots(report["texts"]),
        "Tags": _plots(report["tags"]),
    }
    return (
        _environment()
        .get_template("stats.html.j2")
        .render(style=style(_TEMPLATES / "stats.css"), report=report, groups=groups)
    )


def _plots(group: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each of a group's columns its bars, (label, count), and the line of numbers below."""
    plots: dict[str, dict[str, Any]] = {}
    for name, value in group.items():
        if not isinstance(value, Mapping):
            continue
        if "histogram" not in value:
            plots[name] = {"bars": list(value.items()), "summary": None}
            continue
        starts, unit = value["histogram"]["from"], ""
        if name == "bytes":
            starts, unit = [start / 1024 for start in starts], " KiB"
        bars = list(zip(_labels(starts, unit), value["histogram"]["count"]))
        plots[name] = {"bars": bars, "summary": value}
    return plots


def _labels(starts: list[float], unit: str) -> list[str]:
    """What the bins that begin there hold, of whole numbers where there is no unit."""
    counted = not unit and all(float(start).is_integer() for start in starts)
    labels = []
    for low, high in zip(starts, starts[1:]):
        last = high - 1 if counted else high
        labels.append(f"{low:g}{unit}" if last == low else f"{low:g} – {last:g}{unit}")
    return [*labels, f"{starts[-1]:g}{unit} or more"]


@functools.cache
def _environment() -> jinja2.Environment:
    return templates(_TEMPLATES)
