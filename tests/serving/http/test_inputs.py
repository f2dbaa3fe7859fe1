"""Requests that are refused as a whole."""

import pytest

from ernie_vil2.serving.web.limits import Limits
from tests.support.http_requests import (
    JSON_TYPE,
    b64,
    error_of,
    png,
)


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
