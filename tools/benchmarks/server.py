"""The HTTP server of tools/serve.py against the bare Predictor, for `bench.py inference`."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from benchmarks.common import ROOT, Report

from ernie_vil2 import runtime
from ernie_vil2.artefact.folder import Artefact

CLIENTS = 4  # at a time, each with one request of ITEMS
ITEMS = {"image": 8, "text": 32}
_PATIENCE = 120  # seconds for a server to get ready


def server_table(report: Report, folder: Path, precisions: list[str], options) -> None:
    missing = [name for name in ("fastapi", "uvicorn") if not importlib.util.find_spec(name)]
    if missing:
        print(f"\nno server to measure: {' and '.join(missing)} cannot be imported")
        return
    from ernie_vil2.serving.predictor import Predictor

    precision = precisions[-1]  # the fastest
    predictor = Predictor(folder, precision)
    rows = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        for batch in options.server_batches:
            with Server(folder, precision, batch) as server:
                for kind, count in ITEMS.items():
                    items = examples(predictor.artefact, kind, count)
                    bare, served = [], []
                    alone = partial(embed, predictor, kind, items)
                    for _ in range(options.rounds):
                        bare.append(rate(alone, count, options))
                        time.sleep(0.3)  # OpenMP's threads spin on after a run
                        served.append(rate(server.requests(pool, kind, items), count, options))
                        time.sleep(0.3)
                    row = {"kind": f"{kind}s", "batch": batch, "bare": max(bare)}
                    rows.append({**row, "served": max(served), "share": max(served) / max(bare)})
    rows.sort(key=lambda row: row["kind"])
    number = "{:.1f}".format
    report.table(
        "server",
        f"The HTTP server in {precision} against the bare Predictor, items/s",
        {
            "kind": ("", str),
            "batch": ("--max-batch", str),
            "bare": ("Predictor", number),
            "served": ("server", number),
            "share": ("share", lambda x: f"{x:.0%}"),
        },
        rows,
        f"{CLIENTS} clients at a time on the same cores, requests of {ITEMS['image']} JPEG images "
        f"or {ITEMS['text']} texts of 6 to 18 characters as JSON; the Predictor is given the same "
        "lists. Both decode and tokenise. The best of the rounds.",
    )


def examples(artefact: Artefact, kind: str, count: int) -> list:
    """Encoded photographs of noise, or texts of Chinese characters."""
    rng = np.random.default_rng(0)
    if kind == "image":
        small = rng.integers(0, 256, [count, 24, 32, 3], np.uint8)
        large = [cv2.resize(pixels, (640, 480)) for pixels in small]
        return [cv2.imencode(".jpg", pixels)[1].tobytes() for pixels in large]
    characters = [
        x for x in artefact.tokenizer().vocab if len(x) == 1 and "\u4e00" <= x <= "\u9fff"
    ]
    characters = characters or ["a "]
    return ["".join(rng.choice(characters, length)) for length in rng.integers(6, 19, count)]


def embed(predictor, kind: str, items: list) -> int:
    (predictor.encode_image if kind == "image" else predictor.encode_text)(items)
    return 1


def rate(run, count: int, options) -> float:
    """Items per second of `run()`, which says how many times `count` items it has done."""
    run()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < options.seconds:
        done += run() * count
    return done / (time.perf_counter() - start)


class Server:
    """tools/serve.py on a free port, until the end of a `with` block."""

    def __init__(self, folder: Path, precision: str, batch: int):
        self._log = folder.with_name("server.log")
        options = ["--port", "0", "--precision", precision, "--max-batch", str(batch)]
        command = [sys.executable, str(ROOT / "tools" / "serve.py"), str(folder), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": str(runtime.usable_cores())}
        environment.pop("ERNIE_VIL2_API_KEY", None)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log, env=environment)

    def __enter__(self) -> Server:
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait()

    def requests(self, pool: ThreadPoolExecutor, kind: str, items: list):
        """A function that makes one request of `items` per client at once and returns how many."""
        values = items if kind == "text" else [base64.b64encode(x).decode() for x in items]
        body = json.dumps({f"{kind}s": values, "encoding": "base64"})

        def one(_):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)
            connection.request(
                "POST", f"/v1/embed/{kind}", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if answer.status != 200:
                raise RuntimeError(f"the server answered {answer.status}: {content[:500]!r}")

        return lambda: len(list(pool.map(one, range(CLIENTS))))

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            log = self._log.read_text()
            match = re.search(r"listening on http://127\.0\.0\.1:(\d+)", log)
            if match:
                self._port = int(match[1])
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"tools/serve.py does not get ready:\n{log[-3000:]}")
