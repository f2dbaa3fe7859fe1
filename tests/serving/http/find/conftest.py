"""Folders of drawings, indexed by the command, and servers that search them."""

import json

import numpy as np
import pytest

from ernie_vil2.commands.index import main as index
from tests.support.shapes import COLORS, SHAPES, draw


def write_drawings(folder, seed=0):
    """A PNG of each colour and shape, in a folder of each colour, and its words as tags."""
    rng = np.random.default_rng(seed)
    lines = []
    for color in COLORS:
        (folder / color).mkdir(parents=True, exist_ok=True)
        for shape in SHAPES:
            name = f"{color}/{shape}.png"
            (folder / name).write_bytes(draw(color, shape, rng))
            lines.append(json.dumps({"id": name, "tags": [color, shape]}) + "\n")
    tags = folder.parent / f"{folder.name}.jsonl"
    tags.write_text("".join(lines))
    return folder, tags


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    return write_drawings(tmp_path_factory.mktemp("drawings") / "mine")


@pytest.fixture(scope="module")
def db(drawings, tiny_artefact):
    """A collection of 16 drawings."""
    folder, tags = drawings
    path = folder.parent / "pictures.db"
    assert not index([str(tiny_artefact), str(folder), "--db", str(path), "--tags-file", str(tags)])
    return path


@pytest.fixture(scope="module")
def finding(make_client, db):
    """A client of a server with that collection."""
    return make_client(db=db)
