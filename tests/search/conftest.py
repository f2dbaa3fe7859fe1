"""An index of a small folder, with a real model."""

import pytest

from ernie_vil2.artefact.folder import Artefact
from tests.support.indexes import Index


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
