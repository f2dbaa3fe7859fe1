"""Search over HTTP: what is found, by NumPy's own count; what is refused; and who is let in."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.commands.index import main as index
from ernie_vil2.search import progress
from ernie_vil2.search.open import open_collection
from tests.serving.http.find.conftest import write_drawings
from tests.support.http_requests import KEY, b64, error_of, png


@pytest.fixture(scope="module")
def vectors(drawings, predictor):
    """Path -> the model's own vector, float64."""
    paths = sorted(drawings[0].rglob("*.png"))
    return {str(path): predictor.encode_image([path])[0].astype(float) for path in paths}


def found(client, **body):
    response = client.post("/v1/search", json={"k": 100, "fold": False, **body})
    assert response.status_code == 200, response.text
    return response.json()


def agrees(answer, vectors, query):
    """Whether hits and cosines are those of all `vectors` with the query."""
    query = query / np.linalg.norm(query)
    cosines = {path: float(vector @ query) for path, vector in vectors.items()}
    expected = sorted(cosines, key=lambda path: -cosines[path])
    assert [hit["path"] for hit in answer["hits"]] == expected
    assert np.allclose(
        [x["cosine"] for x in answer["hits"]], sorted(cosines.values())[::-1], 0, 2e-6
    )
    return True


def test_words_a_picture_and_both_find_what_numpy_finds(finding, vectors, predictor):
    text = predictor.encode_text(["a red circle", "blue"]).astype(float)
    image = predictor.encode_image([png(1)])[0].astype(float)
    assert agrees(found(finding, query="a red circle"), vectors, text[0])
    assert agrees(found(finding, query="a red circle - 2:blue"), vectors, text[0] - 2 * text[1])
    assert agrees(found(finding, images=[b64(png(1))]), vectors, image)
    body = {"query": "blue", "images": [b64(png(1))], "weights": [-0.5]}
    assert agrees(found(finding, **body), vectors, text[1] - 0.5 * image)
    one = next(iter(vectors))
    without = {path: vector for path, vector in vectors.items() if path != one}
    id = next(hit["id"] for hit in found(finding, query="blue")["hits"] if hit["path"] == one)
    answer = found(finding, query=f"blue + id:{id}")
    assert agrees(answer, without, text[1] + vectors[one])


def test_a_form_is_the_same_and_a_picture_is_sent_once(finding):
    fields = {"query": "red", "k": "5", "fold": "false", "tags": "circle", "weights": "0.5"}
    form = finding.post("/v1/search", data=fields, files={"images": ("x.png", png(1))}).json()
    body = {"query": "red", "k": 5, "tags": ["circle"], "weights": [0.5]}
    assert form["hits"] == found(finding, **body, images=[b64(png(1))])["hits"]
    assert len(form["hits"]) == 4
    assert found(finding, **body, images=form["images"])["hits"] == form["hits"]
    unknown = {**body, "images": ["sha256:" + "0" * 64]}
    error_of(finding.post("/v1/search", json=unknown), 422, "unknown_image")


def test_pages_are_one_list(finding):
    whole = found(finding, query="red")
    assert whole["total"] == 16 and whole["next"] is None
    pages = [found(finding, query="red", k=7, offset=offset) for offset in (0, 7, 14)]
    assert [hit for page in pages for hit in page["hits"]] == whole["hits"]
    assert [page["next"] for page in pages] == [7, 14, None]


def test_filters(finding, drawings):
    red = str(drawings[0] / "red")
    times = {hit["taken"] for hit in found(finding, query="a")["hits"]}
    assert all(time.endswith("Z") for time in times)
    assert {
        Path(hit["path"]).parent.name for hit in found(finding, query="a", folder=red)["hits"]
    } == {"red"}
    assert len(found(finding, query="a", tags=["red", "circle"])["hits"]) == 1
    assert found(finding, query="a", tags=["rot"])["total"] == 0
    assert not found(finding, query="a", before=1_000_000_000)["hits"]
    assert len(found(finding, query="a", after=1_000_000_000)["hits"]) == 16


def test_similar_ones(finding):
    hit = found(finding, query="red")["hits"][0]
    by_id = finding.get(f"/v1/similar/{hit['id']}", params={"k": 3, "tags": ["red"]})
    assert by_id.status_code == 200
    by_body = finding.post(f"/v1/similar/{hit['id']}", json={"k": 3, "tags": ["red"]})
    assert by_body.json() == by_id.json()
    assert hit["id"] not in {each["id"] for each in by_id.json()["hits"]}
    error_of(finding.get(f"/v1/similar/{'0' * 20}"), 404, "no_such_picture")
    error_of(finding.post(f"/v1/similar/{'0' * 20}", json={}), 404, "no_such_picture")
    info = finding.get(f"/v1/pictures/{hit['id']}").json()
    assert info == {key: hit[key] for key in info} and len(info) == 6


@pytest.mark.parametrize(
    "body, code, told",
    [
        ({}, "empty_query", "neither words nor a picture"),
        ({"query": "  "}, "empty_query", "neither"),
        ({"query": "red + - blue"}, "bad_query", "expected"),
        ({"query": "red - red"}, "bad_query", "cancel out"),
        ({"query": "\u200b"}, "empty_text", "no token"),
        ({"query": "a" * 51}, "text_too_long", "50"),
        ({"query": "id:" + "0" * 20}, "no_such_picture", "0" * 20),
        ({"images": ["!"]}, "bad_base64", "base64"),
        ({"images": [b64(b"hello")]}, "bad_image", "not an image"),
        ({"images": [b64(png())], "weights": [1, 2]}, "bad_query", "2 weights for 1"),
        ({"images": [b64(png())], "weights": [0]}, "bad_query", "weight of 0"),
        ({"query": "red", "k": 501}, "invalid_request", "k:"),
        ({"query": "red", "k": "5"}, "invalid_request", "k:"),
        ({"query": "red", "where": "1=1"}, "invalid_request", "where:"),
        ({"query": " + ".join("abcdefghijklm")}, "too_many_items", "13 items"),
    ],
)
def test_what_is_refused(finding, body, code, told):
    status = 404 if code == "no_such_picture" else 422
    assert told in error_of(finding.post("/v1/search", json=body), status, code)["message"]


@pytest.mark.parametrize(
    "path", ["/v1/similar/ab", "/thumb/" + "g" * 20, "/image/etc%2fpasswd", "/thumb/..%2f..%2fx"]
)
def test_an_id_is_no_path(finding, path):
    response = finding.get(path)
    error_of(
        response,
        response.status_code,
        {422: "invalid_request"}.get(response.status_code, "not_found"),
    )


def test_parameters_of_an_address_are_checked(finding):
    id = found(finding, query="red")["hits"][0]["id"]
    told = error_of(finding.get(f"/v1/similar/{id}?k=0"), 422, "invalid_request")["message"]
    assert told.startswith("k: ")
    error_of(finding.get(f"/v1/similar/{id}?path=/etc"), 422, "invalid_request")


def test_a_key_is_asked_for_everywhere_but_at_the_page(make_client, db):
    client = make_client(db=db, keys=[KEY])
    shown = {"Authorization": f"Bearer {KEY}"}
    hits = client.post("/v1/search", json={"query": "red"}, headers=shown).json()["hits"]
    id = hits[0]["id"]
    paths = [f"/v1/similar/{id}", f"/thumb/{id}", f"/image/{id}", f"/v1/pictures/{id}"]
    for path in [*paths, "/v1/collection"]:
        error_of(client.get(path), 401, "unauthorized")
        assert client.get(path, headers=shown).status_code == 200
    error_of(client.post("/v1/search", json={"query": "red"}), 401, "unauthorized")
    for path in ("/", "/page/main.js", "/page/style.css"):
        assert client.get(path).status_code == 200


def test_the_collection_tells_what_to_filter_by(finding, drawings):
    told = finding.get("/v1/collection").json()
    assert (told["count"], told["complete"], told["indexing"]) == (16, True, None)
    folder = str(drawings[0])
    assert {each["name"]: each["count"] for each in told["folders"]} == {
        f"{folder}/{color}": 4 for color in ("red", "green", "blue", "white")
    }
    assert {each["name"]: each["count"] for each in told["tags"]}["circle"] == 4
    assert 1_000_000_000 < told["oldest"] <= told["newest"]


def test_metrics_name_routes_and_not_ids(finding):
    id = found(finding, query="red")["hits"][0]["id"]
    finding.get(f"/thumb/{id}")
    metrics = finding.get("/metrics").text
    assert 'route="/thumb/{id}",status="200"' in metrics and id not in metrics


def test_a_server_without_a_collection_says_so_in_a_line(client):
    response = client.get("/")
    assert response.status_code == 200 and response.text.count("\n") == 1
    assert "--db" in response.text
    error_of(client.post("/v1/search", json={"query": "red"}), 404, "not_found")


def test_new_pictures_show_while_another_process_writes(make_client, tiny_artefact, tmp_path):
    folder, _ = write_drawings(tmp_path / "mine")
    db = str(tmp_path / "db")
    index([str(tiny_artefact), str(folder / "red"), "--db", db])
    client = make_client(db=db)
    assert found(client, query="red")["total"] == 4
    index([str(tiny_artefact), str(folder / "blue"), "--db", db])
    with contextlib.closing(open_collection(db, write=True)) as writer:
        writer.note(**{progress.NOTE: progress.note(5, 8)})
        told = client.get("/v1/collection").json()
        assert told["indexing"] == {"done": 5, "total": 8, "percent": 62}
        writer.note(**{progress.NOTE: None})
    assert found(client, query="red")["total"] == told["count"] == 8
