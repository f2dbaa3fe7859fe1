"""A retrieval report as one HTML file: the table, and pictures and texts that were found.

Its template and style lie in `templates/`.
"""

from __future__ import annotations

import base64
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import jinja2
from markupsafe import Markup

from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.transforms import decode_image
from ernie_vil2.evaluation.examples import ImageQuery, TextQuery
from ernie_vil2.evaluation.report import (
    directions_of,
    number,
    number_names,
    percent,
    recall_cells,
    recall_names,
    remarks,
    spoken,
    write_text,
)
from ernie_vil2.files.html import style, templates

_TEMPLATES = Path(__file__).parent / "templates"
_THUMBNAIL = 128  # pixels of the longer side


def write_page(
    path: str | os.PathLike,
    title: str,
    report: dict[str, Any],
    queries: Iterable[TextQuery | ImageQuery],
) -> None:
    """One HTML file that needs no other: the recall table, then queries with what they found.

    Pictures are embedded as JPEG of at most 128 pixels; one that cannot be decoded gets a
    placeholder. The file appears whole or not at all.

    Args:
        report: of `evaluate_retrieval`.
        queries: of both kinds, each kind in its order.
    """
    queries, directions = list(queries), directions_of(report)
    page = (
        page_templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            style=page_style(),
            mean_recall=percent(report["mean_recall"]) if "mean_recall" in report else None,
            remarks=remarks(report),
            directions=list(directions.values()),
            recalls=[
                (spoken(name), [recall_cells(report[direction], name) for direction in directions])
                for name in recall_names(report)
            ],
            numbers=[
                (spoken(name), [number(report[direction][name]) for direction in directions])
                for name in number_names(report)
            ],
            text_queries=[query for query in queries if isinstance(query, TextQuery)],
            image_queries=[query for query in queries if isinstance(query, ImageQuery)],
        )
    )
    write_text(path, page)


@functools.cache
def page_templates() -> jinja2.Environment:
    """The templates of evaluations' pages."""
    environment = templates(_TEMPLATES)
    environment.tests["chinese"] = _is_chinese
    environment.filters["thumbnail"] = _thumbnail
    return environment


def page_style() -> Markup:
    """Their style sheet."""
    return style(_TEMPLATES / "page.css")


def _is_chinese(text: str) -> bool:
    return re.search(r"[\u3400-\u9fff]", text) is not None


def _thumbnail(data: bytes | None) -> str | None:
    """The `data:` address of a picture's small JPEG; None: it cannot be read."""
    try:
        image = decode_image(data or b"", min_size=_THUMBNAIL)
    except ImageError:
        return None
    height, width = image.shape[:2]
    scale = min(1, _THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode('ascii')}"
