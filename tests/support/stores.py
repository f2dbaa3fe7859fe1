"""Stores for tests, on 127.0.0.1: moto's S3 in a process, and an HTTP server that fails as told."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ernie_vil2.data.files import systems

SCRIPT = Path(__file__).parent / "scripts" / "s3_server.py"


class S3:
    """A server of moto's with a bucket named "data".

    Args:
        folder: for its log, and for the names of the files that it fails to give.
    """

    def __init__(self, folder: Path):
        self._log, self._faults = folder / "s3.log", folder / "s3.faults"
        self._faults.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self._log), str(self._faults)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.endpoint = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        import boto3

        self._client = boto3.client("s3", endpoint_url=self.endpoint)
        self._client.create_bucket(Bucket="data")

    def put(self, name: str, content: bytes) -> str:
        """Store a file; returns its URL."""
        self._client.put_object(Bucket="data", Key=name, Body=content)
        return f"s3://data/{name}"

    def fail(self, name: str, failing: bool = True) -> None:
        """Answer 503 to whoever reads this file, until told otherwise."""
        fault = self._faults / name.replace("/", "_")
        fault.touch() if failing else fault.unlink()

    def requests(self, method: str) -> list[str]:
        """What was asked for by this method: "/bucket/name?query"."""
        lines = [line.split(" ", 1) for line in self._log.read_text().splitlines()]
        return [path for how, path in lines if how == method]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """The server, and this process's environment set so that fsspec finds it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto, which plays S3, is not installed")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setattr(systems, "_systems", {})  # those of another server
        server = S3(folder)
        environment.setenv("AWS_ENDPOINT_URL", server.endpoint)
        try:
            yield server
        finally:
            server.stop()


class Http:
    """A server of files, which does something else first where it was told so.

    Attributes:
        files: path -> content.
        faults: path -> what the next GETs get: "503", "404", "drop" (half of it, and the end of the
            connection), "short" (half of it, as if it were all), "slow" (all, in small pieces),
            "silent" (nothing more).
        heads: the same for HEAD.
        asked: (method, path) -> how often.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, deque[str]] = defaultdict(deque)
        self.heads: dict[str, deque[str]] = defaultdict(deque)
        self.asked: Counter[tuple[str, str]] = Counter()
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, path: str, content: bytes, *faults: str) -> str:
        """Serve a file at "/name"; returns its URL."""
        self.files[path] = content
        self.faults[path].extend(faults)
        return self.url + path

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(server.heads, body=False)

            def do_GET(self) -> None:
                self._answer(server.faults, body=True)

            def _answer(self, faults, body: bool) -> None:
                if server.released.is_set():  # stopped: what is open ends too
                    self.close_connection = True
                    return
                server.asked[self.command, self.path] += 1
                fault = faults[self.path].popleft() if faults[self.path] else ""
                content = server.files.get(self.path)
                if content is None or fault.isdigit():
                    self.send_response(int(fault or 404))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                sent = content[: len(content) // 2] if fault in ("drop", "short") else content
                self.send_response(200)
                self.send_header("Content-Length", str(len(sent if fault == "short" else content)))
                self.send_header("ETag", f'"{hash(content)}"')
                self.end_headers()
                if body:
                    with contextlib.suppress(ConnectionError):  # nobody reads on
                        self._send(sent, fault)

            def _send(self, content: bytes, fault: str) -> None:
                if fault == "silent":
                    server.released.wait(30)
                elif fault == "slow":
                    for start in range(0, len(content), 4096):
                        self.wfile.write(content[start : start + 4096])
                        time.sleep(0.01)
                else:
                    self.wfile.write(content)
                if fault in ("drop", "silent"):
                    self.close_connection = True

        return Handler
