"""Lines of JSON: of a ledger, and of what pieces hand on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ernie_vil2.files import durable


def text_file(path: Path) -> TextIO:
    """A new file for `json_line`s; a name that is no UTF-8 becomes an escape that JSON knows."""
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def json_line(value: Any) -> str:
    """Readable where it is not ASCII; with its line feed."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def ledger_line(number: int, source: str, reason: str | None) -> str:
    """A record by its number and source, and what is wrong with it."""
    return json_line({"record": number, "source": source, "reason": reason})


def join_files(path: Path, parts: Sequence[Path]) -> None:
    """Write the content of all parts, in their order, to one file."""
    with durable.replaced(path) as draft, open(draft, "wb") as file:
        for part in parts:
            with open(part, "rb") as lines:
                shutil.copyfileobj(lines, file)
