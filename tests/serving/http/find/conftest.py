"""Folders of drawings, indexed by the command, and servers that search them."""

import json

import numpy as np
import pytest

from ernie_vil2.commands.index import main as index
from tests.support.chromium import Browser, browsing
from tests.support.find_page import HOSTILE
from tests.support.server_process import Process, serving
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


@pytest.fixture(scope="package")
def browser(tmp_path_factory):
    """Chromium with a window like a desktop's."""
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as browser:
        browser.screen(1200, 900)
        yield browser


@pytest.fixture(scope="package")
def small(tmp_path_factory, tiny_artefact):
    """A folder of drawings, some in copies, some of hostile names; and its collection."""
    root = tmp_path_factory.mktemp("page")
    folder, tags = write_drawings(root / "mine")
    write_drawings(root / "mine" / "more", seed=1)
    square = (folder / "red" / "square.png").read_bytes()
    (folder / "red" / "copy of square.png").write_bytes(square)
    for number, name in enumerate(HOSTILE):
        (folder / name).write_bytes((folder / "blue" / "line.png").read_bytes() + bytes([number]))
    db = root / "db"
    assert not index([str(tiny_artefact), str(folder), "--db", str(db), "--tags-file", str(tags)])
    return folder, db


@pytest.fixture(scope="package")
def find_server(small, tiny_artefact, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(tiny_artefact, log, "--db", str(small[1])) as server:
        yield server


@pytest.fixture
def page(browser: Browser, find_server: Process):
    """The page, in English, as on a first visit."""
    browser.language("en-US")
    url = str(find_server.http.base_url)
    browser.call("Storage.clearDataForOrigin", origin=url, storageTypes="local_storage")
    browser.problems.clear()
    browser.open("about:blank")  # a mere change of what is behind # would not load it anew
    browser.open(f"{url}/")
    browser.until("document.getElementById('count').textContent")
    yield browser
    assert browser.problems == [] and browser.dialogs == []
