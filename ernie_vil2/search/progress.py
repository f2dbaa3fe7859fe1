"""How far an index in work is: a note that its process leaves in the collection, for others."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from ernie_vil2.search.collection import Collection
from ernie_vil2.search.ended import ended
from ernie_vil2.search.rebuild import draft_notes

NOTE = "indexing"
_SILENCE = 600.0  # seconds after which a process that has said nothing is taken to be gone


def note(done: int, total: int) -> dict[str, Any]:
    """What this process says of itself."""
    here = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    return {"done": done, "total": total, **here}


def progress_of(collection: Collection) -> dict[str, int] | None:
    """That of the index that is made of a collection, or of one that will take its place."""
    found = indexing(collection.notes)
    if found is None and "://" not in collection.uri:
        found = indexing(draft_notes(collection.uri))
    return found


def indexing(notes: Mapping[str, Any]) -> dict[str, int] | None:
    """What a collection's notes say of an index in work: done, total, percent; None: there is none.

    A process that was killed has left its last words there. Its number tells that it is gone, or
    their age: on another machine, or where another process has the number by now.
    """
    told: Any = notes.get(NOTE)
    try:
        done, total, pid = int(told["done"]), int(told["total"]), int(told["pid"])
        host, age = str(told["host"]), time.time() - float(told["time"])
    except (TypeError, KeyError, ValueError):
        return None
    if total <= 0 or pid <= 0 or age > _SILENCE or ended(host, pid):
        return None
    done = min(max(done, 0), total)
    return {"done": done, "total": total, "percent": 100 * done // total}
