"""tools/serve.py as a process, for tests."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.paths import ROOT


class Process:
    """tools/serve.py on a free port."""

    def __init__(self, artefact, log: Path, *options, **environment):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "tools/serve.py", artefact, "--port", "0", *options],
                cwd=ROOT,
                stderr=file,
                env={**os.environ, **environment},
            )
        line = self.wait_for(r"http://127\.0\.0\.1:(\d+)")
        self.address = ("127.0.0.1", int(line[1]))
        self.http = httpx.Client(base_url=line[0], timeout=20)

    def wait_for(self, pattern: str, seconds=30.0):
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return match

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)

    def stop(self, number=signal.SIGTERM) -> int:
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(20)

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(artefact, log: Path, *options) -> Iterator[Process]:
    """A server that is ready; at the end it has to leave well, without a traceback."""
    server = Process(artefact, log, *options)
    server.wait_for("ready")
    yield server
    assert server.stop() == 0
    assert "Traceback" not in log.read_text()
