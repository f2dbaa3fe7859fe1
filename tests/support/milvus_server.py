"""A Milvus server of its own for tests: the standalone binary that the PyPI package brings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

_PATIENCE = 120  # seconds for it to get ready, on a busy machine
_PARTS = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")


class Server:
    """Milvus on free ports of this machine, with its data in `folder`; the binary needs 450 MB."""

    def __init__(self, folder: Path):
        milvus = pytest.importorskip("milvus", reason="the package milvus is not installed")
        self._folder, self._process = folder, None
        config = milvus.MilvusServerConfig(data_dir=str(folder))
        for part in _PARTS:
            config.set(f"{part}.ip", "127.0.0.1")
        config.set("log.level", "error")
        config.set("proxy.timeTickInterval", 50)  # ms: what is read Strongly waits for it
        config.resolve()
        milvus._initialize_data_files(config.base_data_dir)
        self._port = config.get("proxy_port")
        self._metrics, listening = config.resolve_port(9091)
        listening.close()
        self.start()

    def uri(self, name: str) -> str:
        """The address of a collection."""
        return f"http://127.0.0.1:{self._port}/{name}"

    def start(self) -> None:
        binaries = self._folder / "bin"
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._metrics),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": str(binaries),
        }
        with open(self._folder / "logs" / "output", "ab") as log:
            self._process = subprocess.Popen(
                [binaries / "milvus", "run", "standalone"],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Return when it is ready."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                url = f"http://127.0.0.1:{self._metrics}/healthz"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if b"OK" in answer.read():
                        return
            except OSError:
                pass
            time.sleep(0.1)
        output = (self._folder / "logs" / "output").read_text(errors="replace")
        raise AssertionError(f"Milvus did not start\n{output[-3000:]}")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
