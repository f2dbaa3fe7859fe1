"""Pictures that cannot be read, and why: lines of JSON beside an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ernie_vil2.data.jobs.lines import json_line
from ernie_vil2.files import durable


class BadPictures:
    """A file of lines {"source", "reason", "size", "mtime_ns"}, of which a path's last one counts.

    size and mtime_ns are null where not the content is the reason but the disk, a right or a name:
    such a file is tried again each time. Names that are no UTF-8 have escapes of JSON for bytes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lines: dict[str, dict[str, Any]] = {}
        self._torn = False  # a process died within the last line
        try:
            text = path.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return
        *lines, rest = text.split("\n")
        self._torn = bool(rest)
        for line in lines:
            try:
                content = json.loads(line)
                self._lines[content["source"]] = content
            except (ValueError, KeyError, TypeError):  # a torn line
                continue

    def __len__(self) -> int:
        return len(self._lines)

    def still(self, path: str, size: int, mtime_ns: int) -> bool:
        """Whether a file is the one whose content was found bad."""
        line = self._lines.get(path)
        return line is not None and (line.get("size"), line.get("mtime_ns")) == (size, mtime_ns)

    def add(self, path: str, reason: str, size: int | None, mtime_ns: int | None) -> None:
        """Write a line down, unless it is there. Raises OSError."""
        line = {"source": path, "reason": reason, "size": size, "mtime_ns": mtime_ns}
        if self._lines.get(path) == line:
            return
        self._lines[path] = line
        with durable.naming(self.path):
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                durable.append(file, b"\n" * self._torn + _encoded(line))
                self._torn = False
            finally:
                os.close(file)

    def keep(self, right: Callable[[str], bool]) -> None:
        """Write the file anew, with a line of each path for which `right` holds. Raises OSError."""
        self._lines = {path: line for path, line in self._lines.items() if right(path)}
        self._torn = False
        if not self._lines:
            self.path.unlink(missing_ok=True)
            return
        with durable.replaced(self.path) as draft:
            draft.write_bytes(b"".join(map(_encoded, self._lines.values())))


def _encoded(line: dict[str, Any]) -> bytes:
    # half a surrogate pair, as Python has it for a byte that is no UTF-8, as JSON's escape
    return json_line(line).encode("utf-8", "backslashreplace")
