"""What is embedded here: a set with several captions and bad rows, and a way to run the command."""

import json

import numpy as np
import pytest

from ernie_vil2 import cli
from tests.support.files import contents
from tests.support.shapes import COLORS, SHAPES, draw
from tools.embed import main

# shards, pieces and batches that begin at different rows
CUT = ["--rows", "13", "--piece", "5", "--batch-size", "4"]


@pytest.fixture
def embed(tiny_artefact, tmp_path):
    """Runs the command; gives what it wrote, path -> bytes, but for what it keeps for itself."""

    def run(out, *arguments):
        command = [str(tiny_artefact), *map(str, arguments), "-o", str(tmp_path / out)]
        assert cli.run(main, command) == 0
        return contents(tmp_path / out, ".work")

    return run


@pytest.fixture(scope="session")
def set_of_shapes(tmp_path_factory):
    """(folder, rows): `pictures/` and `rows.jsonl`, of which two name no picture; one to three
    captions each."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "pictures").mkdir()
    rng, rows = np.random.default_rng(3), []
    for color in COLORS:
        for shape in SHAPES:
            name, number = f"{color}-{shape}.png", len(rows)
            (folder / "pictures" / name).write_bytes(draw(color, shape, rng))
            captions = [f"a {color} {shape}", f"the {shape}", color][: 1 + number % 3]
            rows.append({"image": name, "captions": captions, "id": f"id{number}"})
    (folder / "pictures" / "damaged.png").write_bytes(b"no picture")
    bad = [{"image": "nowhere.png", "captions": ["a"]}, {"image": "damaged.png", "captions": ["a"]}]
    listed = [*rows[:5], bad[0], *rows[5:9], bad[1], *rows[9:]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    return folder, rows


@pytest.fixture
def as_data_set(set_of_shapes):
    """The set of shapes as the command's arguments."""
    folder, _ = set_of_shapes
    return [
        "--dataset",
        "name=folder",
        f"root={folder / 'pictures'}",
        f"jsonl={folder / 'rows.jsonl'}",
    ]
