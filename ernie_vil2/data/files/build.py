"""From what a configuration calls a set's files to the files."""

from __future__ import annotations

from typing import Any

from ernie_vil2.data.files.local import Files, LocalFiles
from ernie_vil2.data.formats import rows


def open_files(path: Any) -> Files:
    """The files that a path, a pattern or a list of these names.

    Raises:
        UserError: there is none.
    """
    return LocalFiles(rows.files(path))
