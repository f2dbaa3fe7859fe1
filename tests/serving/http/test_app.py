"""The HTTP server: first the application in this process, then tools/serve.py as a process."""

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.commands import serve
from ernie_vil2.errors import UserError
from ernie_vil2.serving.http import embedder
from ernie_vil2.serving.http.app import create_app, short_floats
from ernie_vil2.serving.http.inputs import prepare_image
from ernie_vil2.serving.http.service import Service
from ernie_vil2.serving.predictor import Predictor
from ernie_vil2.serving.web.limits import KEY_VARIABLE, ApiKeys, Limits
from tests.support.browser import rendered
from tests.support.sealing import reseal
from tests.support.server_process import ROOT, Process

JSON_TYPE = {"content-type": "application/json"}
KEY = "0123456789abcdef0123456789abcdef"
LIMITS = Limits(items=12, text_chars=50, body_bytes=1 << 20, pixels=10_000, seconds=10)


@pytest.fixture(scope="module")
def predictor(tiny_artefact):
    return Predictor(tiny_artefact)


@pytest.fixture(scope="module")
def make_client(tiny_artefact):
    clients = []

    def make(limits=LIMITS, keys=(), load=None, wait=True, **batching):
        load = load or (lambda: Predictor(tiny_artefact))
        keys = keys if isinstance(keys, ApiKeys) else ApiKeys(list(keys))
        service = Service(Artefact.open(tiny_artefact), load, limits, keys, **batching)
        client = TestClient(create_app(service), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        clients.append(client)
        end = time.monotonic() + 20
        while wait and client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(make_client):
    return make_client()


def png(seed=0, size=(20, 24), kind="PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, [*size, 3], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def error_of(response, status: int, code: str) -> dict:
    """The error of an answer, which has the one form that all have."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) <= {"code", "message", "index"}
    assert error["code"] == code, error
    assert "\n" not in error["message"]
    return error


# -- Answers ---------------------------------------------------------------------------------------


def test_texts_get_the_models_embeddings(client, predictor):
    texts = ["a red circle", "the blue square", "circle"]
    expected = predictor.encode_text(texts)
    answer = client.post("/v1/embed/text", json={"texts": texts}).json()
    assert answer["dim"] == predictor.embed_dim
    assert [row["index"] for row in answer["results"]] == [0, 1, 2]
    rows = np.array([row["embedding"] for row in answer["results"]], np.float32)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    packed = client.post("/v1/embed/text", json={"texts": texts, "encoding": "base64"}).json()
    packed = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed["results"]]
    np.testing.assert_array_equal(packed, rows)


def test_images_as_json_and_as_a_form_are_the_same(client, predictor):
    images = [png(0), png(1, (40, 20), "JPEG"), png(2, (16, 16), "WEBP")]
    expected = predictor.encode_image(images)
    as_json = client.post("/v1/embed/image", json={"images": [b64(image) for image in images]})
    as_form = client.post(
        "/v1/embed/image", files=[("images", (f"{i}", image)) for i, image in enumerate(images)]
    )
    for response in (as_json, as_form):
        rows = [row["embedding"] for row in response.json()["results"]]
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_similarity_is_cosine_and_logits(client, predictor):
    texts, images = ["red circle", "blue"], [png(0), png(1), png(2)]
    cosine = predictor.encode_text(texts) @ predictor.encode_image(images).T
    body = {"texts": texts, "images": [b64(image) for image in images]}
    answer = client.post("/v1/similarity", json=body).json()
    np.testing.assert_allclose(answer["cosine"], cosine, atol=1e-6)
    np.testing.assert_allclose(answer["logits"], predictor.logit_scale * cosine, atol=2e-5)
    assert answer["logit_scale"] == predictor.logit_scale
    assert answer["errors"] == []


def test_similarity_leaves_out_bad_items(client, predictor):
    texts, images = ["red circle", "x\0"], [b64(b"no image"), b64(png(1))]
    answer = client.post("/v1/similarity", json={"texts": texts, "images": images}).json()
    cosine = predictor.encode_text(texts[:1]) @ predictor.encode_image([png(1)]).T
    assert answer["cosine"][1] == [None, None]
    assert answer["cosine"][0][0] is None
    assert answer["cosine"][0][1] == pytest.approx(cosine[0, 0], abs=1e-6)
    errors = [(error["input"], error["index"], error["code"]) for error in answer["errors"]]
    assert errors == [("texts", 1, "bad_text"), ("images", 0, "bad_image")]
    for bad in ({"texts": ["\0"]}, {"images": [b64(b"no image")]}):
        response = client.post("/v1/similarity", json={"texts": texts, "images": images, **bad})
        assert response.status_code == 422
        assert response.json()["error"]["index"] == 0


@pytest.mark.parametrize("templates", [None, ["{}"], ["the {}", "a {} circle"]])
def test_classification_by_prompts(client, predictor, templates):
    labels, images = ["red", "blue", "green"], [png(0), png(1)]
    used = templates or predictor.artefact.prompts
    means = []
    for label in labels:
        rows = predictor.encode_text([template.format(label) for template in used])
        means.append(rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)))
    cosine = predictor.encode_image(images) @ np.array(means).T
    logits = np.exp(predictor.logit_scale * cosine.astype(np.float64))
    limits = {} if templates is None else {"templates": templates}
    body = {"images": [*map(b64, images), "?"], "labels": labels, **limits}
    if 3 * len(used) + 3 > LIMITS.items:
        body["labels"], labels = labels[:2], labels[:2]
        logits, cosine = logits[:, :2], cosine[:, :2]
    answer = client.post("/v1/classify", json=body).json()
    assert answer["labels"] == labels
    assert answer["results"][2]["error"]["code"] == "bad_base64"
    for i, row in enumerate(logits / logits.sum(axis=1, keepdims=True)):
        result = answer["results"][i]
        np.testing.assert_allclose(result["probabilities"], row, atol=1e-4)
        np.testing.assert_allclose(result["cosine"], cosine[i], atol=1e-6)
        assert result["label"] == labels[int(row.argmax())]


def test_classification_of_a_form(client):
    form = client.post(
        "/v1/classify",
        data={"labels": ["red", "blue"], "templates": ["the {}"]},
        files={"images": png(0)},
    )
    body = {"images": [b64(png(0))], "labels": ["red", "blue"], "templates": ["the {}"]}
    assert form.json() == client.post("/v1/classify", json=body).json()
    assert form.status_code == 200


def test_one_bad_item_does_not_take_the_answer_from_the_others(client, predictor):
    bomb = io.BytesIO()
    Image.new("1", (3000, 3000)).save(bomb, "PNG")
    bad = {
        0: ("bad_base64", "{}"),
        2: ("bad_image", ""),
        3: ("bad_image", b64(png(3)[:-30])),
        4: ("too_many_pixels", b64(bomb.getvalue())),
        5: ("bad_image", b64(b"/etc/passwd")),
        7: ("too_many_pixels", b64(b"P6 90000 90000 255 ")),
    }
    images = [bad[i][1] if i in bad else b64(png(i)) for i in range(8)]
    response = client.post("/v1/embed/image", json={"images": images})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["index"] for result in results] == list(range(8))
    for i, (code, _) in bad.items():
        assert results[i]["error"]["code"] == code
        assert results[i]["error"]["index"] == i
    good = predictor.encode_image([png(1), png(6)])
    np.testing.assert_allclose([results[i]["embedding"] for i in (1, 6)], good, atol=1e-6)

    texts = ["red", "", "x" * 51, "nul\0", "\u200b \n"]
    results = client.post("/v1/embed/text", json={"texts": texts}).json()["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, "empty_text", "text_too_long", "bad_text", "empty_text"]


def test_no_good_item_is_an_error(client):
    response = client.post("/v1/embed/text", json={"texts": ["", "x" * 99]})
    error = error_of(response, 422, "empty_text")
    assert error["index"] == 0
    assert response.json()["results"][1]["error"]["code"] == "text_too_long"


def test_short_floats_tell_every_float32_apart():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 10, 4000) * 10.0 ** rng.integers(-13, 3, 4000)
    values = np.append(values, [0, 1, -1, -0.1, 100]).astype(np.float32)
    written = json.loads(json.dumps(short_floats(values)))
    np.testing.assert_array_equal(np.float32(written), values)
    assert max(len(repr(value)) for value in written) <= len("1.23456789e-10")
    np.testing.assert_allclose(short_floats(np.float32([1e-20, 1e-40])), 0, atol=1e-19)


# -- Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 413, "body_too_large"),
        (b"[" * 5_000, 400, "invalid_json"),
        (b'{"texts": ["\\ud800"]}', 400, "invalid_json"),
        (b'{"texts": ["\xed\xa0\x80"]}', 400, "invalid_json"),
        (b'{"texts": ["a\\u0000"]}', 422, "bad_text"),
        (b'{"texts": [NaN]}', 422, "invalid_request"),
        (b'{"texts": ["a"], "x": Infinity}', 422, "invalid_request"),
        (b'{"texts": ["a"], "path": "/etc/passwd"}', 422, "invalid_request"),
        (b'{"texts": "a"}', 422, "invalid_request"),
        (b'{"texts": []}', 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b"7", 422, "invalid_request"),
        (b'{"texts": ["a", 7]}', 422, "invalid_request"),
        (b'{"texts": ["a", ["a"]]}', 422, "invalid_request"),
        (b'{"texts": ["a"], "encoding": "hex"}', 422, "invalid_request"),
        (b'{"texts": [' + b'"a",' * 12 + b'"a"]}', 422, "invalid_request"),
        (b'{"texts": [' + b"0," * 1000 + b"0]}", 422, "invalid_request"),
    ],
)
def test_malformed_json(client, body, status, code):
    response = client.post("/v1/embed/text", content=body, headers=JSON_TYPE)
    error_of(response, status, code)


def test_an_error_names_the_place(client):
    error = error_of(
        client.post("/v1/embed/text", json={"texts": ["a", "b", 7]}), 422, "invalid_request"
    )
    assert error["index"] == 2
    assert error["message"] == "texts[2]: Input should be a valid string"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "text/plain"}, "media_type"),
        ({}, "media_type"),
        ({"content-type": ""}, "media_type"),
        ({"content-type": "application/json; charset=utf-16"}, "media_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, "media_type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "content_encoding"),
    ],
)
def test_other_media_types(client, headers, code):
    response = client.post("/v1/embed/text", content=b'{"texts": ["a"]}', headers=headers)
    error_of(response, 415, code)


@pytest.mark.parametrize(
    ("boundary", "body", "status", "code"),
    [
        ("", b"", 400, "bad_form"),
        ("; boundary=x", b"", 422, "invalid_request"),
        ("; boundary=x", b"no form", 400, "bad_form"),
        ("; boundary=x", b"--x\r\n\r\nno name\r\n--x--", 400, "bad_form"),
        ("; boundary=x", b"--x\r\n" + b"a" * 10_000 + b": b\r\n\r\n--x--", 400, "bad_form"),
        ("; boundary=x", b"--x\r\nA: " + b"a" * 10_000 + b"\r\n\r\n--x--", 400, "bad_form"),
        (
            "; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="encoding"\r\n\r\n\xff\r\n--x--',
            400,
            "bad_form",
        ),
        (  # truncated: the file never ends
            "; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc',
            422,
            "invalid_request",
        ),
        ("; boundary=x; charset=unicode_escape", b"", 415, "media_type"),
        (f"; boundary={'x' * 300}", b"--x", 422, "invalid_request"),
    ],
)
def test_malformed_forms(client, boundary, body, status, code):
    headers = {"content-type": "multipart/form-data" + boundary}
    error_of(client.post("/v1/embed/image", content=body, headers=headers), status, code)


def test_a_field_of_a_form_in_place_of_a_file(client):
    error_of(client.post("/v1/embed/image", files={"images": (None, "abc")}), 422, "bad_base64")
    response = client.post("/v1/embed/image", files={"images": (None, b64(png()))})
    assert response.status_code == 200  # base64, as in JSON
    response = client.post(
        "/v1/similarity", files=[("images", png()), ("texts", ("a.txt", b"\xff"))]
    )
    error_of(response, 422, "invalid_request")


def test_classification_refuses_bad_labels_and_templates(client):
    def classify(**fields):
        body = {"images": [b64(png())], "labels": ["red"], "templates": ["{}"], **fields}
        return client.post("/v1/classify", json=body)

    assert error_of(classify(labels=["red", ""]), 422, "empty_text")["index"] == 1
    assert error_of(classify(labels=["\0"]), 422, "bad_text")["index"] == 0
    assert error_of(classify(labels=["red", "x" * 51]), 422, "text_too_long")["index"] == 1
    assert error_of(classify(templates=["{}", "none"]), 422, "bad_template")["index"] == 1
    error_of(classify(templates=["{0.__class__}"]), 422, "bad_template")
    error_of(classify(templates=["{}" * 2]), 422, "bad_template")
    error_of(classify(templates=["x" * 50 + "{}"]), 422, "text_too_long")
    error_of(classify(labels=["red"] * 4, templates=["{}"] * 3), 422, "too_many_items")
    # nothing in a template or label is interpreted
    assert classify(templates=["{red} {}"]).status_code == 200
    assert classify(labels=["{}", "{0}"], templates=["red {}"]).status_code == 200


def test_bodies_have_limits_known_or_not(client):
    big = b'{"texts": ["' + b"a" * (2 << 20) + b'"]}'
    response = client.post("/v1/embed/image", content=big, headers=JSON_TYPE)
    error_of(response, 413, "body_too_large")
    chunks = (big[i : i + 65536] for i in range(0, len(big), 65536))
    response = client.post("/v1/embed/image", content=chunks, headers=JSON_TYPE)
    error_of(response, 413, "body_too_large")
    assert client.service.bodies.held == 0


def test_all_bodies_together_have_a_limit(make_client):
    client = make_client(Limits(buffered_bytes=1000))
    response = client.post("/v1/embed/text", json={"texts": ["a" * 1500]})
    assert error_of(response, 429, "busy")
    assert response.headers["retry-after"] == "1"
    assert client.post("/v1/embed/text", json={"texts": ["a" * 500]}).status_code == 200
    assert client.service.bodies.held == 0


def test_unknown_routes_and_methods(client):
    error_of(client.get("/v1/embed/../../etc/passwd"), 404, "not_found")
    response = client.get("/v1/embed/text")
    error_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_keys(make_client, tmp_path, monkeypatch):
    client = make_client(keys=["another-key-of-16", KEY])
    body = {"texts": ["red"]}
    wrong = [
        {},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}0"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer \xff".encode("latin-1")},
        {"x-api-key": KEY.upper()},
        {"x-api-key": ""},
    ]
    for headers in wrong:
        response = client.post("/v1/embed/text", json=body, headers=headers)
        error_of(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    for headers in ({"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}):
        assert client.post("/v1/embed/text", json=body, headers=headers).status_code == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200

    file = tmp_path / "keys"
    file.write_text(f"{KEY}\nsecond-key-of-20-chars\n")
    assert ApiKeys.read(file)
    file.write_text("\n")
    with pytest.raises(UserError, match="empty"):
        ApiKeys.read(file)
    file.write_text("short")
    with pytest.raises(UserError, match="16 characters"):
        ApiKeys.read(file)
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(UserError, match="16 characters"):
        ApiKeys.read()
    monkeypatch.delenv(KEY_VARIABLE)
    assert not ApiKeys.read()


# -- Loading, overload, time -----------------------------------------------------------------------


class Slow:
    """The predictor, held up until `go` is set."""

    def __init__(self, predictor):
        self.predictor = predictor
        self.go, self.entered = threading.Event(), threading.Event()

    def embed_ids(self, ids):
        self.entered.set()
        assert self.go.wait(20)
        return self.predictor.embed_ids(ids)

    embed_pixels = None


def test_not_ready_while_loading(make_client, predictor):
    loaded = threading.Event()
    client = make_client(load=lambda: loaded.wait(20) and predictor, wait=False)
    assert client.get("/healthz").json() == {"status": "ok"}
    error_of(client.get("/readyz"), 503, "loading")
    error_of(client.post("/v1/embed/text", json={"texts": ["red"]}), 503, "loading")
    loaded.set()
    end = time.monotonic() + 5
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end
    client.service.draining = True
    error_of(client.get("/readyz"), 503, "draining")
    response = client.post("/v1/embed/text", json={"texts": ["red"]})
    error_of(response, 503, "draining")
    assert response.headers["connection"] == "close"


def test_overload_and_time_limit(make_client, predictor):
    slow = Slow(predictor)
    client = make_client(
        Limits(items=4, seconds=0.5), load=lambda: slow, max_batch=1, max_wait=0, max_queue=4
    )
    answers = []

    def post():
        answers.append(client.post("/v1/embed/text", json={"texts": ["red", "a", "the"]}))

    thread = threading.Thread(target=post)
    thread.start()
    assert slow.entered.wait(5)
    response = client.post("/v1/embed/text", json={"texts": ["red", "blue"]})
    error_of(response, 429, "queue_full")
    assert int(response.headers["retry-after"]) >= 1
    thread.join()
    error_of(answers[0], 504, "timeout")
    assert client.service.batcher.waiting == 0
    assert client.service.batcher.admitted == 0
    slow.go.set()
    assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 200


def test_a_failure_of_the_model_is_one_clean_error(make_client, logged):
    class Broken:
        def embed_ids(self, ids):
            return np.full([len(ids), 12], np.nan, np.float32)

        embed_pixels = None

    client = make_client(load=Broken)
    error_of(client.post("/v1/embed/text", json={"texts": ["red"]}), 500, "internal")
    assert "infinite or undefined" in logged.text


# -- Operation -------------------------------------------------------------------------------------


def test_metrics(make_client):
    client = make_client()
    client.post("/v1/embed/text", json={"texts": ["red", "", "blue"]})
    client.post("/v1/embed/text", json={})
    client.get("/a-path-that-a-client-made-up")
    text = client.get("/metrics").text
    for line in (
        'ernie_vil2_requests_total{route="/v1/embed/text",status="200"} 1.0',
        'ernie_vil2_requests_total{route="/v1/embed/text",status="422"} 1.0',
        'ernie_vil2_requests_total{route="other",status="404"} 1.0',
        'ernie_vil2_items_total{tower="text"} 2.0',
        'ernie_vil2_item_errors_total{code="empty_text",tower="text"} 1.0',
        'ernie_vil2_batch_size_sum{tower="text"} 2.0',
        "ernie_vil2_queue_depth 0.0",
        "ernie_vil2_buffered_bytes 0.0",
        "ernie_vil2_requests_in_flight 1.0",
        "ernie_vil2_ready 1.0",
    ):
        assert line in text.splitlines()
    assert "made-up" not in text
    assert "process_resident_memory_bytes" in text


def test_examples_of_the_documentation_work(client):
    document = client.get("/openapi.json").json()
    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    assert len(posts) == 4
    for path, operation in posts.items():
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        examples = {
            name: field["examples"][0]
            for name, field in schema["properties"].items()
            if "examples" in field
        }
        response = client.post(path, json=examples)
        assert response.status_code == 200, (path, response.text)
        assert "error" not in response.text.replace('"errors":[]', "")
    assert client.get("/docs").status_code == 200


def test_the_documentation_needs_no_network(client):
    page = client.get("/docs").text
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert links == ["docs/swagger-ui.css", "data:,", "docs/swagger-ui-bundle.js"]
    assert "://" not in page and '"validatorUrl": null' in page
    kinds = ("text/css; charset=utf-8", "text/javascript; charset=utf-8")
    for path, kind in zip((links[0], links[2]), kinds):
        response = client.get(f"/{path}")
        assert response.status_code == 200 and response.headers["content-type"] == kind
        assert len(response.content) > 100_000
    assert "/docs" not in client.get("/openapi.json").text


def test_the_key_can_guard_everything_but_health(make_client):
    client = make_client(keys=ApiKeys([KEY], everywhere=True))
    guarded = ("/metrics", "/docs", "/docs/swagger-ui.css", "/openapi.json")
    for path in guarded:
        error_of(client.get(path), 401, "unauthorized")
        assert client.get(path, headers={"x-api-key": KEY}).status_code == 200
    for path in ("/healthz", "/readyz"):
        assert client.get(path).status_code == 200
    error_of(client.post("/v1/embed/text", json={"texts": ["red"]}), 401, "unauthorized")
    with pytest.raises(UserError, match="--key-everywhere without a key"):
        ApiKeys([], everywhere=True)


def test_a_key_file_that_others_can_read_draws_a_warning(tmp_path, logged):
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o600)
    assert ApiKeys.read(file) and not logged.text
    file.chmod(0o640)
    assert ApiKeys.read(file)
    assert f"{file} can be read by others (mode 640): chmod 600" in logged.text
    assert KEY not in logged.text


def test_texts_do_not_wait_behind_images(make_client, monkeypatch):
    """Though images take all threads that prepare images."""
    waiting, go = threading.Semaphore(0), threading.Event()

    def slow(*args):
        waiting.release()
        assert go.wait(20)
        return prepare_image(*args)

    monkeypatch.setattr(embedder, "prepare_image", slow)
    client = make_client()
    answers = []

    def post_images():
        body = {"images": [b64(png(i)) for i in range(12)]}
        answers.append(client.post("/v1/embed/image", json=body))

    thread = threading.Thread(target=post_images)
    thread.start()
    assert waiting.acquire(timeout=10)
    assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 200
    assert not answers
    go.set()
    thread.join()
    assert answers[0].status_code == 200


# -- tools/serve.py --------------------------------------------------------------------------------


@pytest.fixture
def start(tiny_artefact, tmp_path):
    started = []

    def start(*options, artefact=tiny_artefact, **environment):
        started.append(Process(artefact, tmp_path / f"{len(started)}.log", *options, **environment))
        return started[-1]

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tiny_artefact, tmp_path_factory):
    options = ["--max-body-mb", "1", "--body-timeout", "1", "--max-pixels", "10000"]
    server = Process(tiny_artefact, tmp_path_factory.mktemp("server") / "log", *options)
    server.wait_for("ready")
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def test_a_browser_shows_the_documentation(server, tmp_path):
    host, port = server.address
    page = rendered(f"http://{host}:{port}/docs", tmp_path / "profile")
    for path in ("embed/text", "embed/image", "similarity", "classify"):
        assert f'data-path="/v1/{path}"' in page


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with connection:
        while chunk := connection.recv(65536):
            data += chunk
    return data


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        chunk = connection.recv(65536)
        assert chunk, data
        data += chunk
    return data


def request(path: str, headers: str, body: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n"
    return head.encode() + body


def test_drain_answers_what_is_in_flight(start):
    server = start()
    server.wait_for("ready")
    body = json.dumps({"texts": ["red"]}).encode()
    slow, idle = server.connect(), server.connect()
    slow.sendall(request("/v1/embed/text", f"Content-Length: {len(body)}\r\n", body[:5]))
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    idle.sendall(get)
    assert b"200 OK" in read_until(idle, b'{"status":"ok"}')
    server.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 5
    while server.http.get("/readyz").status_code == 200:
        assert time.monotonic() < end
    error_of(server.http.get("/readyz"), 503, "draining")
    error_of(server.http.post("/v1/embed/text", json={"texts": ["red"]}), 503, "draining")
    slow.sendall(body[5:])
    answer = read_all(slow)
    assert b"200 OK" in answer and b'"embedding"' in answer
    assert server.process.wait(10) == 0
    idle.close()
    assert "Traceback" not in server.log.read_text()


def test_a_signal_while_loading_ends_it(start, tiny_artefact, tmp_path):
    server = start()
    server.wait_for("listening")
    end = time.monotonic() + 10
    while True:  # once it answers at all
        try:
            server.http.get("/healthz")
            break
        except httpx.HTTPError:
            assert time.monotonic() < end
    assert server.stop() == 0


def test_a_model_that_fails_its_golden_vectors_ends_it(tiny_artefact, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_artefact, tmp_path / "damaged")
    golden = dict(np.load(folder / "golden.npz"))
    golden["text_embeds"] = -golden["text_embeds"]
    np.savez(folder / "golden.npz", **golden)
    assert "golden.npz is damaged or was changed" in run_tool(folder, "--verify").stderr
    reseal(folder)
    result = run_tool(folder, "--port", "0")
    assert result.returncode == 2
    assert "gives other text embeddings" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert run_tool(folder, "--verify").returncode == 2


def test_verify(tiny_artefact):
    result = run_tool(tiny_artefact, "--verify")
    assert result.returncode == 0
    assert "fp32, text: as trained, largest difference" in result.stdout


def run_tool(*args):
    return subprocess.run(
        [sys.executable, "tools/serve.py", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_mistakes_on_the_command_line(tiny_artefact, tmp_path, server):
    port = server.address[1]
    for args, message in (
        ([tmp_path], "holds no inference.yml"),
        ([tiny_artefact, "--port", port], f"port {port}: Address already in use"),
        ([tiny_artefact, "--api-key-file", tmp_path / "none"], "cannot be read"),
        ([tiny_artefact, "--max-items", 9, "--max-queue", 8], "--max-queue 8"),
        ([tiny_artefact, "--key-everywhere"], "--key-everywhere without a key"),
    ):
        result = run_tool(*args)
        assert result.returncode == 2
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ") and message in last
    start_time = time.monotonic()
    assert run_tool("--help").returncode == 0
    assert time.monotonic() - start_time < 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--port", "65536", "'65536' is no whole number from 0 to 65535"),
        ("--port", "-1", "'-1' is no whole number from 0 to 65535"),
        ("--port", "9" * 5000, f"'{'9' * 20}...' is no whole number from 0 to 65535"),
        ("--threads", "1000000", "'1000000' is no whole number from 1 to 1024"),
        ("--timeout", "0", "'0' is no time above 0"),
        ("--body-timeout", "0", "'0' is no time above 0"),
        ("--timeout", "nan", "'nan' is no time of 0 or more"),
        ("--max-batch", "0", "'0' is no whole number from 1 to 4096"),
        ("--max-body-mb", "1" * 30, "is no whole number from 1 to 1000000"),
    ],
)
def test_numbers_that_nobody_means(option, value, message, capsys):
    with pytest.raises(SystemExit) as left:
        serve.main(["folder", f"{option}={value}"])
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: " in last and message in last


def test_too_few_open_files(tiny_artefact):
    code = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
    code += "runpy.run_path('tools/serve.py', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, tiny_artefact, "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "error: 40 files may be open at a time: expected at least" in result.stderr


def test_memory_of_large_pictures_goes_back(start):
    server = start("--max-body-mb", "8")
    server.wait_for("ready")
    file = io.BytesIO()
    Image.new("RGB", (7000, 7000), "red").save(file, "JPEG")
    server.http.post("/v1/embed/image", files={"images": png()}).raise_for_status()
    before = server.memory()
    images = [("images", file.getvalue())] * 6  # without trimming, 660 MiB stay
    server.http.post("/v1/embed/image", files=images).raise_for_status()
    end = time.monotonic() + 10
    while server.memory() - before > 256 << 20:
        assert time.monotonic() < end, (server.memory() - before) >> 20
        time.sleep(0.05)


def test_the_key_comes_from_the_environment(start):
    server = start(**{KEY_VARIABLE: KEY})
    server.wait_for("ready")
    error_of(server.http.post("/v1/embed/text", json={"texts": ["red"]}), 401, "unauthorized")
    headers = {"authorization": f"Bearer {KEY}"}
    response = server.http.post("/v1/embed/text", json={"texts": ["red"]}, headers=headers)
    assert response.status_code == 200
    assert KEY not in server.log.read_text()


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(server):
    with server.connect() as connection:
        connection.sendall(
            request("/v1/embed/image", "Content-Length: 99999999\r\nExpect: 100-continue\r\n")
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_an_endless_body_is_refused_and_not_kept(server):
    before = server.memory()
    connection = server.connect()
    connection.sendall(request("/v1/embed/image", "Transfer-Encoding: chunked\r\n"))
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    for _ in range(500):  # 31 MiB of which one may be held
        connection.sendall(chunk)
    connection.sendall(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer
    assert answer.endswith(b'{"status":"ok"}')  # the next request on the same connection
    assert server.memory() - before < 16 << 20


def test_a_slow_body_is_given_up(server):
    start_time = time.monotonic()
    with server.connect() as connection:
        connection.sendall(request("/v1/embed/text", "Content-Length: 100\r\n", b'{"te'))
        answer = read_until(connection, b"}}")
    assert answer.startswith(b"HTTP/1.1 408") and b"body_timeout" in answer
    assert 0.9 < time.monotonic() - start_time < 5


def test_answers_are_sent_without_delay(server):
    """Head and body are two packets: with Nagle's algorithm each answer takes 40 ms."""
    times = []
    for _ in range(20):
        start_time = time.perf_counter()
        server.http.get("/healthz")
        times.append(time.perf_counter() - start_time)
    assert sorted(times)[5] < 0.03


def test_what_is_not_http(server):
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = read_until(connection, b"}}")
    assert answer.startswith(b"HTTP/1.1 400") and b'"code":"bad_http"' in answer
    with server.connect() as connection:  # a chunk that turns bad after the answer
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 200")
        connection.sendall(b"not a chunk\r\n")
        assert connection.recv(4096) == b""


def test_a_client_that_goes_away_frees_its_place(server):
    images = [b64(png(i, (90, 90))) for i in range(40)]
    body = json.dumps({"images": images}).encode()
    for _ in range(3):
        with server.connect() as connection:
            connection.sendall(request("/v1/embed/image", f"Content-Length: {len(body)}\r\n", body))
    end = time.monotonic() + 5
    while "ernie_vil2_items_admitted 0.0" not in server.http.get("/metrics").text:
        assert time.monotonic() < end
    assert "ernie_vil2_buffered_bytes 0.0" in server.http.get("/metrics").text
    assert 'status="500"' not in server.http.get("/metrics").text


def test_load_with_malformed_requests(server, predictor):
    """Eight clients at once: no lost answer, no wrong one, memory flat."""
    images = [png(i) for i in range(4)]
    expected = predictor.encode_image(images)
    texts = ["red circle", "the blue square", "a"]
    expected_texts = predictor.encode_text(texts)
    malformed = [
        ("/v1/embed/image", {"json": {"images": ["no base64"]}}, 422),
        ("/v1/embed/image", {"json": {"images": [b64(png(1)[:40])]}}, 422),
        ("/v1/embed/text", {"content": b"a" * (8 << 20), "headers": JSON_TYPE}, 413),
        ("/v1/embed/image", {"json": {"images": []}}, 422),
        ("/v1/embed/text", {"json": {"texts": ["\0"]}}, 422),
        ("/v1/embed/text", {"json": {"texts": ["a"] * 10_000}}, 422),
        ("/v1/embed/text", {"content": b"", "headers": {"content-type": "text/plain"}}, 415),
        ("/v1/similarity", {"json": {"texts": [7], "images": [7]}}, 422),
    ]
    problems = []

    def client(seed):
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=server.http.base_url, timeout=20) as http:
            for i in range(20):
                try:
                    if i % 10 == 7:
                        path, options, status = malformed[rng.integers(len(malformed))]
                        response = http.post(path, **options)
                        assert response.status_code == status, response.text
                        assert response.json()["error"]["message"]
                    elif i % 2:
                        k = rng.integers(4)
                        body = {"images": [b64(images[k])], "encoding": "base64"}
                        response = http.post("/v1/embed/image", json=body)
                        (row,) = response.json()["results"]
                        row = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
                        np.testing.assert_allclose(row, expected[k], atol=1e-5)
                    else:
                        k = rng.integers(3)
                        response = http.post("/v1/embed/text", json={"texts": [texts[k]] * 2})
                        rows = [row["embedding"] for row in response.json()["results"]]
                        np.testing.assert_allclose(rows, expected_texts[[k, k]], atol=1e-5)
                except Exception as error:
                    problems.append(repr(error))

    def load():
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    load()
    before = server.memory()
    load()
    assert problems == []
    assert server.memory() - before < 16 << 20
