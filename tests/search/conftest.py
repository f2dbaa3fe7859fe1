"""The stores, each as a function from a name to the address of a collection."""

from __future__ import annotations

import itertools

import pytest

from ernie_vil2.search import recall
from tests.support.milvus_server import Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory) -> Server:
    """A Milvus server that is ready."""
    server = Server(tmp_path_factory.mktemp("milvus"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["lance", "lance, indexed", pytest.param("milvus", marks=pytest.mark.slow)])
def store(request) -> str:
    """What keeps the collections of a test."""
    return request.param


@pytest.fixture
def uri(store, request, tmp_path, monkeypatch) -> str:
    """The address of a collection that is not there."""
    if store == "milvus":
        return request.getfixturevalue("milvus").uri(f"test_{next(_numbers)}")
    if store == "lance, indexed":
        monkeypatch.setattr(recall, "EXACT_UP_TO", 30)
    return str(tmp_path / "它's 100%_.db")
