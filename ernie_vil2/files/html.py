"""Pages that are one HTML file: their templates and styles, which lie beside the modules."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup


def templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder; every value is escaped, and one that is not given an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def style(path: Path) -> Markup:
    """A style sheet of ours, as it is."""
    return Markup(path.read_text(encoding="utf-8"))
