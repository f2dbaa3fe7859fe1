"""tools/serve.py under clients that are slow, send too much, or go away."""

import base64
import io
import json
import threading
import time

import httpx
import numpy as np
from PIL import Image

from tests.support.http_requests import (
    JSON_TYPE,
    b64,
    png,
    read_all,
    read_until,
    request,
)


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
