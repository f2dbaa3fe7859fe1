"""Pictures as rows of Arrow's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Floats
from ernie_vil2.search.collection import COLUMNS, Picture

VECTOR = "vector"
_STRINGS = ("id", "path", "sha256")


def schema(dim: int) -> Any:
    """pyarrow.Schema of pictures with vectors of `dim` numbers."""
    import pyarrow as pa

    kinds = {"tags": pa.list_(pa.string()), **dict.fromkeys(_STRINGS, pa.string())}
    columns = [(name, kinds.get(name, pa.int64())) for name in COLUMNS]
    return pa.schema([*columns, (VECTOR, pa.list_(pa.float32(), dim))])


def to_table(pictures: Sequence[Picture], vectors: Floats) -> Any:
    """pyarrow.Table of pictures and their vectors, [N, dim]."""
    import pyarrow as pa

    count, dim = vectors.shape
    assert len(pictures) == count and len({x.id for x in pictures}) == count
    flat = pa.array(np.ascontiguousarray(vectors, "float32").ravel())
    columns = {name: [getattr(x, name) for x in pictures] for name in COLUMNS}
    columns[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, dim)
    return pa.table(columns, schema=schema(dim))


def to_pictures(table: Any) -> list[Picture]:
    """Pictures of a pyarrow.Table, or a batch, that has their columns."""
    *columns, tags = (table.column(name).to_pylist() for name in COLUMNS)
    return [Picture(*row) for row in zip(*columns, map(tuple, tags))]


def to_vectors(table: Any) -> Floats:
    """float32 [N, dim] of a pyarrow.Table, or a batch."""
    column = table.column(VECTOR)
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)
