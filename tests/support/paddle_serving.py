"""tools/serve_paddle.py as a process, for tests."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import paddle
import pytest

from tests.support.paths import ROOT

PYTHON = ROOT / os.environ.get("ERNIE_VIL2_SERVING_VENV", ".venv-serving") / "bin" / "python"
DEFAULTS = ROOT / "configs" / "paddle_serving.yml"
CLASSES = ["红", "blue", "红"]  # of its classifier
TEXTS = ["a red circle", "the blue line " * 9, "square", "white cross a"]

# of the tests that start it
marks = [
    pytest.mark.slow,
    pytest.mark.skipif(paddle.__version__ >= "3", reason="Paddle 3 writes no .pdmodel"),
]


class Service:
    """tools/serve_paddle.py as a user starts it. `error`: what it said if it did not start.

    prefix: a command that starts it.
    """

    def __init__(self, folder: Path, logs: Path, *options: str, prefix: tuple[str, ...] = ()):
        self.http_port, self.rpc_port = free_ports(2)
        ports = ["--http-port", str(self.http_port), "--rpc-port", str(self.rpc_port)]
        self.process = subprocess.Popen(
            [
                *prefix,
                PYTHON,
                ROOT / "tools" / "serve_paddle.py",
                folder,
                *ports,
                "--log-dir",
                logs,
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.line = self.process.stdout.readline()
        self.error = "" if self.line else self.process.communicate()[1]

    def processes(self) -> list[int]:
        """Its processes, by the folder that stands in their command line or their parents'."""
        pids, found = {}, [self.process.pid]
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                pids[int(status.parent.name)] = int(
                    status.read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
        for parent in found:
            found += [pid for pid, above in pids.items() if above == parent]
        return found

    def memory_mb(self) -> float:
        total = 0
        for pid in self.processes():
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0])
        return total / 1024

    def post(self, body, path="/ernie_vil2/prediction") -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=120)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask(self, **values) -> tuple[int, dict, str]:
        """HTTP status, the values read from JSON, err_msg."""
        strings = [v if isinstance(v, str) else json.dumps(v) for v in values.values()]
        status, answer = self.post(json.dumps({"key": list(values), "value": strings}))
        values = dict(zip(answer["key"], map(json.loads, answer["value"])))
        return status, values, answer["err_msg"]

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit code; `error` is what it said."""
        code = self.process.wait(60)
        if not self.process.stderr.closed:
            self.error = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def ended(pids: list[int]) -> bool:
    """Within five seconds; a process whose new parent has not noticed yet counts as ended."""
    for _ in range(50):
        stats = [Path(f"/proc/{pid}/stat") for pid in pids]
        if all(not s.exists() or s.read_text().rpartition(")")[2].split()[0] == "Z" for s in stats):
            return True
        time.sleep(0.1)
    return False


def encoded(images: list[bytes]) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]
