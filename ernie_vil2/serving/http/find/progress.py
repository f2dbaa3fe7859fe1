"""How far an index is that another process makes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def indexing(notes: Mapping[str, Any]) -> dict[str, int] | None:
    """What a collection's notes say of an index in work: done, total, percent; None: there is none.

    A process that was killed has left its last words there: its number tells that it is gone.
    """
    told: Any = notes.get("indexing")
    try:
        done, total, pid = int(told["done"]), int(told["total"]), int(told["pid"])
    except (TypeError, KeyError, ValueError):
        return None
    if total <= 0 or not _lives(pid):
        return None
    done = min(max(done, 0), total)
    return {"done": done, "total": total, "percent": 100 * done // total}


def _lives(pid: int) -> bool:
    if pid <= 0:  # these name groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
