"""The HTTP protocol against hostile and odd connections: a real server of a small application."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from ernie_vil2.serving.web.connections import ConnectionLimits
from ernie_vil2.serving.web.server import listen, make_server

LIMITS = ConnectionLimits(connections=6, per_address=4, spare=2, idle_seconds=10, head_seconds=0.5)


class Echo:
    """An application that answers a request with its body, once `go` is set; and its service."""

    ready, failure, in_flight, draining = True, None, 0, False

    def __init__(self):
        self.go, self.gone = threading.Event(), threading.Event()
        self.go.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body, more = body + message["body"], message["more_body"]
        if not self.go.is_set():
            assert (await receive())["type"] == "http.disconnect"
            self.gone.set()
            return
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Running:
    """A server in a thread."""

    def __init__(self, limits: ConnectionLimits = LIMITS):
        self.echo = Echo()
        self.listener = listen("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        self.server = make_server(self.echo, self.echo, limits, drain_seconds=5)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.server.handle_exit()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(self.address, 10, source_address=(source, 0))

    def ask(self, data: bytes, source: str = "127.0.0.1") -> bytes:
        """All that comes until the server closes the connection."""
        with self.connect(source) as connection:
            connection.sendall(data)
            return read_all(connection)


@pytest.fixture(scope="module")
def running():
    with Running() as running:
        yield running


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        chunk = connection.recv(65536)
        assert chunk, data
        data += chunk
    return data


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def post(headers: str, body: bytes, version="1.1") -> bytes:
    return f"POST / HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode() + body


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "data",
    ids=range(16),
    argvalues=[
        post(CHUNKED, b"3\r\nabcXX0\r\n\r\n" + SMUGGLED),
        post(CHUNKED, b"3\r\nabc\n\n0\r\n\r\n" + SMUGGLED),
        post(CHUNKED + "Content-Length: 4\r\n", b"1\r\na\r\n0\r\n\r\n" + SMUGGLED),
        post("Content-Length: 4\r\n" + CHUNKED, b"1\r\na\r\n0\r\n\r\n" + SMUGGLED),
        post(CHUNKED, b"0\r\n\r\n" + SMUGGLED, version="1.0"),
        post("Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        post("Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + SMUGGLED),
        post("Transfer-Encoding: identity\r\n", SMUGGLED),
        post(CHUNKED + CHUNKED, b"0\r\n\r\n" + SMUGGLED),
        post("Content-Length: 0\r\nContent-Length: 36\r\n", SMUGGLED),
        post("Content-Length: 0, 36\r\n", SMUGGLED),
        post("Content-Length: +0\r\n", SMUGGLED),
        post(f"Content-Length: {'9' * 5000}\r\n", SMUGGLED),
        post("Content-Length: 3\r\n X: y\r\n\0: y\r\n", b"abc" + SMUGGLED),
        b"GET / HTTP/1.1\r\n\r\n" + SMUGGLED,  # no Host
        b"\x16\x03\x01 hello\r\n\r\n",
    ],
)
def test_what_others_may_read_otherwise_is_refused(running, data):
    answer = running.ask(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"connection: close" in head.lower()
    assert json.loads(body)["error"]["code"] == "bad_http"
    assert answer.count(b"HTTP/1.1") == 1


def test_a_body_is_no_next_request(running):
    answer = running.ask(
        get("/", f"Content-Length: {len(SMUGGLED)}\r\nConnection: close\r\n") + SMUGGLED
    )
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(SMUGGLED)


def test_chunks_that_are_right(running):
    answer = running.ask(
        post(CHUNKED + "Connection: close\r\n", b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n")
    )
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\nabcd")


def test_the_whole_head_has_a_deadline(running):
    """Though a byte comes all the time."""
    with running.connect() as connection:
        connection.settimeout(0.05)
        answer, start = b"", time.monotonic()
        for byte in get("/", "X: " + "x" * 5000):
            connection.sendall(bytes([byte]))
            try:
                answer = connection.recv(4096)
                break
            except socket.timeout:
                assert time.monotonic() - start < 10
        connection.settimeout(10)
        answer += read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408") and b'"code":"head_timeout"' in answer


def test_an_address_has_a_limit_and_health_a_place(running):
    with ExitStack() as stack:
        for _ in range(LIMITS.per_address):
            stack.enter_context(running.connect("127.0.0.2"))
        answer = running.ask(post("Content-Length: 9999999\r\n", b"a" * 100_000), "127.0.0.2")
        assert answer.startswith(b"HTTP/1.1 503") and b"4 connections of your address" in answer
        assert running.ask(get("/", "Connection: close\r\n")).startswith(b"HTTP/1.1 200")
        answer = running.ask(get("/healthz"), "127.0.0.2")
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
        for _ in range(LIMITS.connections - LIMITS.per_address):
            stack.enter_context(running.connect("127.0.0.3"))
        answer = running.ask(get("/"))
        assert answer.startswith(b"HTTP/1.1 503") and b"than 6 connections: try" in answer
        for _ in range(3 * LIMITS.spare):  # they would hold the spare places too
            stack.enter_context(running.connect("127.0.0.2"))
        assert running.ask(get("/readyz")).startswith(b"HTTP/1.1 200")
    end = time.monotonic() + 5
    while not running.ask(get("/", "Connection: close\r\n")).startswith(b"HTTP/1.1 200"):
        assert time.monotonic() < end


def test_a_client_that_sends_no_more_gets_its_answer(running):
    with running.connect() as connection:
        connection.sendall(post("Content-Length: 3\r\n", b"abc"))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).endswith(b"\r\n\r\nabc")
    with running.connect() as connection:  # two requests at once
        connection.sendall(post("Content-Length: 3\r\n", b"abc") * 2)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).count(b"\r\n\r\nabc") == 2
    for half in (get("/")[:-2], post("Content-Length: 3\r\n", b"ab"), post(CHUNKED, b"3\r\nab")):
        with running.connect() as connection:
            connection.sendall(half)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection).startswith(b"HTTP/1.1 400")
    with running.connect() as connection:
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


def test_a_client_that_has_gone_is_noticed():
    with Running() as running:
        running.echo.go.clear()
        with running.connect() as connection:
            connection.sendall(get("/"))
        assert running.echo.gone.wait(10)


def test_connections_fit_the_open_files():
    code = (
        "import resource; from ernie_vil2.serving.web.connections import *; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {1})); "
        "print(fit_open_files(ConnectionLimits()).connections, "
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )

    def fit(soft: int, hard: int):
        command = [sys.executable, "-c", code.format(soft, hard)]
        return subprocess.run(command, capture_output=True, text=True)

    assert "ernie_vil2.errors.UserError: 40 files may be open" in fit(40, 40).stderr
    connections, soft = map(int, fit(40, 300).stdout.split())
    assert 100 < connections < 250 and soft == 300
    connections, soft = map(int, fit(40, 4000).stdout.split())
    assert connections == 1000 and 1000 < soft < 1300
