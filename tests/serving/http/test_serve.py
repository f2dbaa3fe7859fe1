"""tools/serve.py as a process: its start, its end, its command line."""

import json
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from ernie_vil2.commands import serve
from ernie_vil2.serving.web.limits import KEY_VARIABLE
from tests.support.browser import rendered
from tests.support.http_requests import (
    KEY,
    error_of,
    read_all,
    read_until,
    request,
)
from tests.support.sealing import reseal
from tests.support.server_process import ROOT


def test_a_browser_shows_the_documentation(server, tmp_path):
    host, port = server.address
    page = rendered(f"http://{host}:{port}/docs", tmp_path / "profile")
    for path in ("embed/text", "embed/image", "similarity", "classify"):
        assert f'data-path="/v1/{path}"' in page


def test_drain_answers_what_is_in_flight(start):
    server = start()
    server.wait_for("ready")
    body = json.dumps({"texts": ["red"]}).encode()
    slow, idle = server.connect(), server.connect()
    slow.sendall(request("/v1/embed/text", f"Content-Length: {len(body)}\r\n", body[:5]))
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    idle.sendall(get)
    assert b"200 OK" in read_until(idle, b'{"status":"ok"}')
    server.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 5
    while server.http.get("/readyz").status_code == 200:
        assert time.monotonic() < end
    error_of(server.http.get("/readyz"), 503, "draining")
    error_of(server.http.post("/v1/embed/text", json={"texts": ["red"]}), 503, "draining")
    slow.sendall(body[5:])
    answer = read_all(slow)
    assert b"200 OK" in answer and b'"embedding"' in answer
    assert server.process.wait(10) == 0
    idle.close()
    assert "Traceback" not in server.log.read_text()


def test_a_signal_while_loading_ends_it(start, tiny_artefact, tmp_path):
    server = start()
    server.wait_for("listening")
    end = time.monotonic() + 10
    while True:  # once it answers at all
        try:
            server.http.get("/healthz")
            break
        except httpx.HTTPError:
            assert time.monotonic() < end
    assert server.stop() == 0


def test_a_model_that_fails_its_golden_vectors_ends_it(tiny_artefact, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_artefact, tmp_path / "damaged")
    golden = dict(np.load(folder / "golden.npz"))
    golden["text_embeds"] = -golden["text_embeds"]
    np.savez(folder / "golden.npz", **golden)
    assert "golden.npz is damaged or was changed" in run_tool(folder, "--verify").stderr
    reseal(folder)
    result = run_tool(folder, "--port", "0")
    assert result.returncode == 2
    assert "gives other text embeddings" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert run_tool(folder, "--verify").returncode == 2


def test_verify(tiny_artefact):
    result = run_tool(tiny_artefact, "--verify")
    assert result.returncode == 0
    assert "fp32, text: as trained, largest difference" in result.stdout


def run_tool(*args):
    return subprocess.run(
        [sys.executable, "tools/serve.py", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_mistakes_on_the_command_line(tiny_artefact, tmp_path, server):
    port = server.address[1]
    for args, message in (
        ([tmp_path], "holds no inference.yml"),
        ([tiny_artefact, "--port", port], f"port {port}: Address already in use"),
        ([tiny_artefact, "--api-key-file", tmp_path / "none"], "cannot be read"),
        ([tiny_artefact, "--max-items", 9, "--max-queue", 8], "--max-queue 8"),
        ([tiny_artefact, "--key-everywhere"], "--key-everywhere without a key"),
        ([tiny_artefact, "--tensorrt"], "has no shapes for TensorRT: export it with --tensorrt"),
        ([tiny_artefact, "--verify", "--tensorrt"], "TensorRT on cpu: expected device gpu"),
        ([tiny_artefact, "--device", "gpu:0"], "device gpu:0: this Paddle sees 0 GPUs"),
    ):
        result = run_tool(*args)
        assert result.returncode == 2
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ") and message in last
    start_time = time.monotonic()
    assert run_tool("--help").returncode == 0
    assert time.monotonic() - start_time < 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--port", "65536", "'65536' is no whole number from 0 to 65535"),
        ("--port", "-1", "'-1' is no whole number from 0 to 65535"),
        ("--port", "9" * 5000, f"'{'9' * 20}...' is no whole number from 0 to 65535"),
        ("--threads", "1000000", "'1000000' is no whole number from 1 to 1024"),
        ("--timeout", "0", "'0' is no time above 0"),
        ("--body-timeout", "0", "'0' is no time above 0"),
        ("--timeout", "nan", "'nan' is no time of 0 or more"),
        ("--max-batch", "0", "'0' is no whole number from 1 to 4096"),
        ("--max-body-mb", "1" * 30, "is no whole number from 1 to 1000000"),
    ],
)
def test_numbers_that_nobody_means(option, value, message, capsys):
    with pytest.raises(SystemExit) as left:
        serve.main(["folder", f"{option}={value}"])
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: " in last and message in last


def test_too_few_open_files(tiny_artefact):
    code = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
    code += "runpy.run_path('tools/serve.py', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, tiny_artefact, "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "error: 40 files may be open at a time: expected at least" in result.stderr


def test_the_key_comes_from_the_environment(start):
    server = start(**{KEY_VARIABLE: KEY})
    server.wait_for("ready")
    error_of(server.http.post("/v1/embed/text", json={"texts": ["red"]}), 401, "unauthorized")
    headers = {"authorization": f"Bearer {KEY}"}
    response = server.http.post("/v1/embed/text", json={"texts": ["red"]}, headers=headers)
    assert response.status_code == 200
    assert KEY not in server.log.read_text()
