"""HTTP for the Paddle Serving service: the JSON of Paddle Serving's own gateway, with limits.

Paddle Serving's gateway reads bodies of any size into memory (three of 100 MB left it with 1.3 GB),
cannot return more than 4 MiB, answers errors with 200 and listens on every interface.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from paddle_serving_server.pipeline.proto import pipeline_service_pb2 as messages

from ernie_vil2.serving.paddle_serving.request import BAD_REQUEST, TOO_LARGE, kind
from ernie_vil2.serving.paddle_serving.service import NAME
from ernie_vil2.serving.paddle_serving.settings import Limits

PATH = f"/{NAME}/prediction"
_CLOSED = 3001  # Paddle Serving's err_no while it stops
_HTTP_STATUS = {0: 200, BAD_REQUEST: 400, TOO_LARGE: 413, _CLOSED: 503}
_CONNECTIONS = 256  # at a time; a thread each


class Front(ThreadingHTTPServer):
    """Listens at once; `serve_forever` in a thread, then `drain`.

    working: requests that the service works on at a time.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, servicer, limits: Limits, working: int):
        self.servicer, self.limits = servicer, limits
        self.most = working + limits.waiting
        self.turns = threading.BoundedSemaphore(working)
        self.connections = threading.BoundedSemaphore(_CONNECTIONS)
        self.requests, self.bytes, self.changed = 0, 0, threading.Condition()
        super().__init__((host, port), _Handler)

    def process_request(self, request, client_address):
        if not self.connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request, client_address):
        """A client that went away is no event of ours; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @contextmanager
    def place(self, length: int) -> Iterator[bool]:
        """Whether there is room for a request of so many bytes; if so, it is held."""
        with self.changed:
            full = self.bytes + length > self.limits.bodies_mb << 20 or self.requests >= self.most
            if not full:
                self.requests, self.bytes = self.requests + 1, self.bytes + length
        if full:
            yield False
            return
        try:
            yield True
        finally:
            with self.changed:
                self.requests, self.bytes = self.requests - 1, self.bytes - length
                self.changed.notify_all()

    def drain(self, seconds: float) -> None:
        """Take no new connections, and wait for the answers to the requests at hand."""
        self.shutdown()
        self.socket.close()
        with self.changed:
            self.changed.wait_for(lambda: self.requests == 0, seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def setup(self):
        self.timeout = self.server.limits.seconds
        super().setup()

    def log_message(self, *args):
        pass

    def handle_expect_100(self):
        return self.length() is not None and super().handle_expect_100()

    def do_GET(self):
        if self.path == "/healthz":
            self.answer(200, {"status": "ok"})
        else:
            self.refuse(404, f"no page {self.path[:60]!r}: POST to {PATH}, or GET /healthz")

    def do_POST(self):
        # the last part of the path is free in Paddle Serving
        if not self.path.startswith(f"/{NAME}/"):
            self.refuse(404, f"no service {self.path[:60]!r}: POST to {PATH}", close=True)
            return
        length = self.length()
        if length is None:
            return
        with self.server.place(length) as free:
            if free:
                self.embed(length)
            else:
                self.refuse(503, "too many requests are in work: try again", close=True)

    def length(self) -> int | None:
        """Of the body in bytes; None if it was refused."""
        header = self.headers.get("Content-Length", "")
        most = self.server.limits.body_mb << 20
        if "Transfer-Encoding" in self.headers or not (header.isascii() and header.isdecimal()):
            self.refuse(411, "a Content-Length is needed", close=True)
        elif len(header) > 18 or int(header) > most:
            self.refuse(
                413, f"a body of {header[:20]} bytes, at most {most}: send less", close=True
            )
        else:
            return int(header)
        return None

    def embed(self, length: int) -> None:
        body = self.body(length)
        if body is None:
            self.refuse(408, f"the body of {length} bytes did not arrive in time", close=True)
            return
        with self.server.turns:
            request = _parse(body, self.server.limits)
            del body
            if isinstance(request, str):
                self.refuse(400, request)
                return
            answer = self.server.servicer.inference(request, None)
        self.answer(
            _HTTP_STATUS.get(answer.err_no, 500),
            {
                "err_no": answer.err_no,
                "err_msg": answer.err_msg,
                "key": list(answer.key),
                "value": list(answer.value),
                "tensors": [],
            },
        )

    def body(self, length: int) -> bytearray | None:
        """None if it does not arrive within the limit."""
        body, end = bytearray(), time.monotonic() + self.server.limits.seconds
        try:
            while len(body) < length:
                chunk = self.rfile.read1(min(length - len(body), 1 << 20))
                if not chunk or time.monotonic() > end:
                    return None
                body += chunk
        except OSError:  # too slow, or gone
            return None
        return body

    def refuse(self, status: int, message: str, close: bool = False) -> None:
        number = TOO_LARGE if status == 413 else BAD_REQUEST
        content = {"err_no": number, "err_msg": message, "key": [], "value": [], "tensors": []}
        self.close_connection = self.close_connection or close
        self.answer(status, content)
        if close:
            self.discard()

    def answer(self, status: int, content: dict) -> None:
        data = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def discard(self) -> None:
        """Read on for a while: a client that still sends would lose the answer to a reset."""
        end = time.monotonic() + self.server.limits.seconds
        self.connection.settimeout(2)
        while time.monotonic() < end:
            if not self.rfile.read1(1 << 20):
                break


def _parse(body: bytearray, limits: Limits) -> messages.Request | str:
    """The request in a body, or what is wrong with it."""
    if body.count(b",") > limits.commas:
        return f"the body has more than {limits.commas} commas"
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        return f"the body is no JSON: {str(error)[:100]}"
    if not isinstance(content, dict):
        return f'the body is {kind(content)}: expected an object with "key" and "value"'
    for name in ("key", "value"):
        strings = content.get(name)
        if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
            return f'"{name}" should be a list of strings'
    logid = content.get("logid", 0)
    if type(logid) is not int or not -(1 << 63) <= logid < 1 << 63:
        return '"logid" should be a whole number'
    try:
        return messages.Request(key=content["key"], value=content["value"], logid=logid)
    except (ValueError, UnicodeError):
        return "a string is no valid Unicode: it holds half of a surrogate pair"
