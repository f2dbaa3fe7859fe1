"""What the tests of the HTTP server send and read."""

import base64
import io
import socket

import numpy as np
from PIL import Image

from ernie_vil2.serving.web.limits import Limits

JSON_TYPE = {"content-type": "application/json"}
KEY = "0123456789abcdef0123456789abcdef"
LIMITS = Limits(items=12, text_chars=50, body_bytes=1 << 20, pixels=10_000, seconds=10)


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
