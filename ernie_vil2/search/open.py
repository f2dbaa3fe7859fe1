"""Which store a collection's name means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import Collection


def open_collection(
    uri: str, model: Mapping[str, Any] | None = None, *, dim: int | None = None, write: bool = False
) -> Collection:
    """The collection that `uri` names; with `write` it is made where it is missing.

    Open it after forking: a forked child cannot use its parent's.

    Args:
        uri: a folder, or `http://host:19530/name` of a Milvus server.
        model: which model the vectors are of (`model_identity`); None: any.
        dim: numbers of a vector, to make a collection with; one that is there has to have as many.
        write: to change it; takes its lock.

    Raises:
        UserError: none is there, it is of another model, another process writes to it, the store's
            package is not installed, or the server does not answer.
    """
    if uri.startswith(("http://", "https://")):
        from ernie_vil2.search.milvus import MilvusCollection

        return MilvusCollection(uri, model, dim=dim, write=write)
    if "://" in uri:
        raise UserError(f"{uri}: expected a folder, or http://host:19530/name of a Milvus server")
    from ernie_vil2.search.lance import LanceCollection

    return LanceCollection(uri, model, dim=dim, write=write)
