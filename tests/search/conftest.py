"""The stores and their server, and an index of a small folder, with a real model."""

from __future__ import annotations

import itertools

import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.search import recall
from tests.support.demo_vectors import Demo
from tests.support.indexes import Index
from tests.support.milvus_server import Server

_numbers = itertools.count()


@pytest.fixture(scope="package")
def milvus(tmp_path_factory) -> Server:
    """A Milvus server that is ready; it takes a tenth of a core, so it ends with these tests."""
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


@pytest.fixture(scope="session")
def tiny_tower(tiny_artefact):
    from ernie_vil2.serving.tower import Tower, TowerOptions

    return Tower(Artefact.open(tiny_artefact), "image", TowerOptions(threads=1))


@pytest.fixture
def index(tmp_path, tiny_artefact, tiny_tower) -> Index:
    return Index(tmp_path / "pictures.db", Artefact.open(tiny_artefact), tiny_tower)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture(scope="module")
def demo() -> Demo:
    return Demo()


@pytest.fixture(scope="module")
def collection(demo, tmp_path_factory):
    return demo.collection(tmp_path_factory.mktemp("demo") / "db")
