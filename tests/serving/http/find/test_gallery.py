"""The collection behind a server, which other processes change."""

import shutil
import threading

import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.commands.index import main as index
from ernie_vil2.errors import UserError
from ernie_vil2.search.identity import model_identity
from ernie_vil2.serving.http.find.gallery import Gallery
from tests.serving.http.find.conftest import write_drawings
from tests.support.http_requests import error_of


def total(client) -> int:
    response = client.post("/v1/search", json={"query": "red", "fold": False})
    assert response.status_code == 200, response.text
    return response.json()["total"]


def test_a_rebuilt_collection_is_opened_while_others_search(make_client, tiny_artefact, tmp_path):
    folder, _ = write_drawings(tmp_path / "mine")
    db = str(tmp_path / "db")
    index([str(tiny_artefact), str(folder), "--db", db])
    client = make_client(db=db)
    id = client.post("/v1/search", json={"query": "red"}).json()["hits"][0]["id"]
    seen, ended = [], threading.Event()

    def search():
        while not ended.is_set():
            seen.append(total(client))
            seen.append(16 if client.get(f"/thumb/{id}").status_code in (200, 404) else -1)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for _ in range(2):
            index([str(tiny_artefact), "--db", db, "--rebuild"])
    finally:
        ended.set()
        thread.join()
    assert set(seen) == {16} and len(seen) > 4
    shutil.rmtree(folder / "red")
    index([str(tiny_artefact), "--db", db, "--rebuild"])
    assert total(client) == 12


def test_a_collection_of_another_model_is_refused(db, make_client, tiny_artefact, tmp_path):
    identity = {**model_identity(Artefact.open(tiny_artefact)), "weights": "0" * 64}
    with pytest.raises(UserError, match="another model"):
        Gallery(str(db), identity, None)
    with pytest.raises(UserError, match="no such collection"):
        Gallery(str(tmp_path / "none"), identity, None)
    copy = tmp_path / "copy"
    shutil.copytree(db, copy)
    client = make_client(db=copy)
    assert total(client) == 16
    shutil.rmtree(copy)
    answer = client.post("/v1/search", json={"query": "red"})
    assert "gone" in error_of(answer, 503, "no_collection")["message"]
    shutil.copytree(db, copy)
    assert total(client) == 16
