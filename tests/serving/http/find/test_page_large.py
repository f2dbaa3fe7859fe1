"""The page over 100,000 pictures: what it holds of them, and the key that it asks for."""

import contextlib

import httpx
import numpy as np
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.search.collection import Picture, picture_id
from ernie_vil2.search.identity import model_identity
from ernie_vil2.search.open import open_collection
from tests.support.http_requests import KEY
from tests.support.server_process import serving

pytestmark = pytest.mark.slow

MANY = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory, tiny_artefact):
    """A collection of many pictures whose files are not there."""
    artefact, rng = Artefact.open(tiny_artefact), np.random.default_rng(0)
    dim, db = artefact.embed_dim, tmp_path_factory.mktemp("large") / "db"
    vectors = rng.standard_normal([MANY, dim], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hashes = rng.integers(-(2**63), 2**63, MANY).tolist()
    rows = [
        Picture(picture_id(path), path, "0" * 64, 1, 1, 0, 4, 3, dhash)
        for path, dhash in zip(
            (f"/gone/{number // 1000}/{number}.jpg" for number in range(MANY)), hashes
        )
    ]
    with contextlib.closing(
        open_collection(str(db), model_identity(artefact), dim=dim, write=True)
    ) as collection:
        collection.add(rows, vectors)
    return db


def test_a_hundred_thousand_hits_with_a_key(browser, large, tiny_artefact, tmp_path, monkeypatch):
    monkeypatch.setenv("ERNIE_VIL2_API_KEY", KEY)
    with serving(tiny_artefact, tmp_path / "log", "--db", str(large)) as server:
        page = browser
        page.language("en-US")
        page.open(f"{server.http.base_url}/#q=red")
        page.until("document.getElementById('login').open")
        page.type("a wrong key, which is long")
        page.press("Enter")
        page.until("!document.getElementById('key-wrong').hidden")
        page.type(KEY)
        page.press("Enter")
        page.until("document.querySelector('.tile')?.getAttribute('aria-setsize') === '100000'", 60)
        page.until("document.querySelectorAll('.missing').length > 10")  # their files are gone
        nodes = []
        for share in (0.5, 0.9, 0.1, 1):
            page.run(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
            here = (
                "[...document.querySelectorAll('.tile')].filter(x => x.hit)"
                f".some(x => Math.abs(x.getAttribute('aria-posinset') - {share * MANY}) < 200)"
            )
            page.until(here)
            nodes.append(page.run("document.getElementsByTagName('*').length"))
        assert max(nodes) < 800
        # every tile in sight is the one that the server has there
        answer = httpx.post(
            f"{server.http.base_url}/v1/search",
            json={"query": "red", "k": 100, "offset": MANY - 100},
            headers={"X-API-Key": KEY},
        ).json()
        last = page.run("[...document.querySelectorAll('.tile .picture')].at(-1).title")
        assert last == answer["hits"][-1]["path"]
        page.press("Escape", "Home")  # out of the search box, to the first
        page.until("document.activeElement.parentElement?.getAttribute('aria-posinset') === '1'")
        page.press("End")
        page.until(
            "document.activeElement.parentElement?.getAttribute('aria-posinset') === '100000'"
        )
    page.problems.clear()  # 401 and 404 were on purpose
