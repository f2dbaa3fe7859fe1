"""When requests are taken: keys, loading, overload, time."""

import threading
import time

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.serving.http import embedder
from ernie_vil2.serving.items import prepare_image
from ernie_vil2.serving.web.limits import KEY_VARIABLE, ApiKeys, Limits
from tests.support.http_requests import (
    KEY,
    b64,
    error_of,
    png,
)

# -- Keys ------------------------------------------------------------------------------------------


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
