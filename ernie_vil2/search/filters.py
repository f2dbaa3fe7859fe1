"""A `Filter` in the languages of the stores.

Folders are a range of paths and not LIKE, whose wildcards (% and _) are letters in real paths.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array
from ernie_vil2.search.collection import Filter


def sql(where: Filter) -> str | None:
    """An expression in the SQL of LanceDB; None: all pass."""
    parts = []
    if where.folder is not None:
        low, high = path_range(where.folder)
        parts.append(f"path >= {sql_string(low)} AND path < {sql_string(high)}")
    if where.after is not None and where.before is not None and where.after >= where.before:
        return "false"  # as a range it is an error of DataFusion's
    if where.after is not None:
        parts.append(f"taken >= {_seconds(where.after)}")
    if where.before is not None:
        parts.append(f"taken < {_seconds(where.before)}")
    parts += [f"array_has(tags, {sql_string(tag)})" for tag in where.tags]
    return " AND ".join(parts) or None


def milvus(where: Filter) -> str:
    """An expression of Milvus; "": all pass."""
    parts = []
    if where.folder is not None:
        low, high = map(_quoted, path_range(where.folder))
        parts.append(f"path >= {low} and path < {high}")
    if where.after is not None:
        parts.append(f"taken >= {_seconds(where.after)}")
    if where.before is not None:
        parts.append(f"taken < {_seconds(where.before)}")
    parts += [f"array_contains(tags, {_quoted(tag)})" for tag in where.tags]
    return " and ".join(parts)


def mask(table: Any, where: Filter) -> Array:
    """bool [N]: which rows of a pyarrow.Table pass."""
    import pyarrow.compute as pc

    passing = np.ones(len(table), bool)
    path, taken, tags = (table.column(name) for name in ("path", "taken", "tags"))
    if where.folder is not None:
        passing &= pc.starts_with(path, path_range(where.folder)[0]).to_numpy()
    if where.after is not None:
        passing &= taken.to_numpy() >= where.after
    if where.before is not None:
        passing &= taken.to_numpy() < where.before
    for tag in where.tags:
        having = np.zeros(len(table), bool)
        equal = pc.equal(pc.list_flatten(tags), tag).to_numpy()
        having[pc.list_parent_indices(tags).to_numpy()[equal]] = True
        passing &= having
    return passing


def sql_string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def path_range(folder: str) -> tuple[str, str]:
    """Two strings between which, by their bytes, all paths below a folder lie, and no others."""
    stem = folder.rstrip("/")
    return f"{stem}/", f"{stem}{chr(ord('/') + 1)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _seconds(time: int) -> int:
    """Within what a column holds; beyond that is before or after all."""
    return max(-(2**62), min(int(time), 2**62))
