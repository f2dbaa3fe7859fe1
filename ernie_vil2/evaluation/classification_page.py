"""A report of classification as one HTML file: accuracies, each class, what was taken for what.

Its template and style lie in `templates/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ernie_vil2.evaluation.accuracy import figures, mistaken
from ernie_vil2.evaluation.classification_report import SPOKEN, counted
from ernie_vil2.evaluation.page import page_style, page_templates
from ernie_vil2.evaluation.report import percent, recall_cells, write_text

_IN_A_TABLE = 120  # classes; of more the page lists the mistakes alone
_LISTED = 60  # mistakes


def write_classification_page(
    path: str | os.PathLike, title: str, report: Mapping[str, Any]
) -> None:
    """One HTML file that needs no other; it appears whole or not at all.

    Args:
        report: of `classify`.
    """
    classes = report["per_class"]
    there = [place for place, each in enumerate(classes) if each["images"]]
    page = page_templates().get_template("classification.html.j2")
    content = page.render(
        title=title,
        style=page_style(),
        remarks=counted(report),
        accuracies=[(SPOKEN[name], recall_cells(dict(report), name)) for name in figures(report)],
        classes=[
            {
                **classes[place],
                "top1": percent(classes[place]["top1"]),
                "top5": percent(classes[place]["top5"]),
                "mistakes": _mistakes_of(classes, place),
            }
            for place in sorted(there, key=lambda place: classes[place]["top1"])
        ],
        mistakes=[
            (classes[place], classes[other], number, percent(number / classes[place]["images"]))
            for place, other, number in mistaken(report, _LISTED)
        ],
        names=[each["name"] for each in classes],
        confusion=[_row(classes, place) for place in there] if len(classes) <= _IN_A_TABLE else [],
    )
    write_text(path, content)


def _mistakes_of(classes: list, place: int) -> list[tuple[str, int]]:
    """(name, images) of the three classes that a class was most often taken for."""
    found = [(int(o), n) for o, n in classes[place]["predicted"].items() if int(o) != place]
    return [(classes[o]["name"], n) for o, n in sorted(found, key=lambda x: (-x[1], x[0]))[:3]]


def _row(classes: list, place: int) -> tuple[str, list[tuple[str, int, int, bool]]]:
    """A class's name, and for each class: its name, images taken for it, percent, the right one."""
    each = classes[place]
    cells = []
    for other, another in enumerate(classes):
        number = each["predicted"].get(str(other), 0)
        share = round(100 * number / each["images"])
        cells.append((another["name"], number, share, other == place))
    return each["name"], cells
