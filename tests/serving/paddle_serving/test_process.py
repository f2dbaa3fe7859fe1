"""The real service whatever it is sent, its start and its end."""

import base64
import http.client
import json
import random
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.paddle_serving import TEXTS, Service, encoded, ended, marks
from tests.support.sealing import reseal
from tests.support.shapes import draw

pytestmark = marks


# -- What clients may do wrong ---------------------------------------------------------------------

BAD_IMAGES = {
    "!!": "not base64",
    "QUJD": "not an image",
    "": "empty",
    base64.b64encode(draw("red", "line", np.random.default_rng(0))[:99]).decode(): "damaged",
}
BAD_TEXTS = {
    "": "no token in the text",
    " \n": "no token in the text",
    "\u200b": "no token in the text",
    "a\0b": "NUL",
    "x" * 2001: "2001 characters, at most 2000",
}
WRONG_TYPES = {5: "a number", None: "null", True: "a boolean"}


def test_each_bad_item_has_its_own_error(service, images, expected):
    good = encoded(images)
    sent, reasons = [], []
    for bad, reason in [*BAD_IMAGES.items(), *WRONG_TYPES.items()]:
        sent += [good[0], bad]
        reasons += [None, reason]
    status, values, _ = service.ask(images=sent, texts=["red", *BAD_TEXTS], similarity="true")
    assert status == 200
    check(values, "image", reasons, [expected[0][0]] * len(BAD_IMAGES | WRONG_TYPES))
    check(values, "text", [None, *BAD_TEXTS.values()])
    for row, reason in zip(values["similarity"], reasons):
        assert (row is None) == (reason is not None)
        assert reason is not None or (row[0] is not None and row[1:] == [None] * len(BAD_TEXTS))


def check(values: dict, tower: str, reasons: list, embeds=None) -> None:
    """Each item has either an embedding or an error that holds its reason."""
    good = []
    results = zip(values[f"{tower}_embeds"], values[f"{tower}_errors"])
    assert len(values[f"{tower}_embeds"]) == len(values[f"{tower}_errors"]) == len(reasons)
    for (row, error), reason in zip(results, reasons):
        assert (row is None) == (reason is not None)
        if reason is None:
            assert error is None
        else:
            assert reason in error
        if row is not None:
            good.append(row)
    if embeds is not None:
        np.testing.assert_allclose(good, embeds, rtol=0, atol=1e-5)


TEN_THOUSAND = json.dumps({"key": ["texts"], "value": [json.dumps(["a"] * 10_000)]})
BAD_BODIES = [
    (b"\0\xff", 400, "the body is no JSON"),
    (b"", 400, "the body is no JSON"),
    (b"[" * 100_000, 400, "the body is no JSON"),
    (b"[1]", 400, "the body is a list"),
    (b"{}", 400, '"key" should be a list of strings'),
    (b'{"key": ["text"], "value": [7]}', 400, '"value" should be a list of strings'),
    (b'{"key": ["text"], "value": []}', 400, "1 keys and 0 values"),
    (b'{"key": ["text", "text"], "value": ["a", "b"]}', 400, "a key is given twice"),
    (b'{"key": ["txt"], "value": ["a"]}', 400, 'did you mean "text"?'),
    (b'{"key": ["texts"], "value": ["red"]}', 400, "texts is no JSON"),
    (b'{"key": ["texts"], "value": ["{}"]}', 400, "texts is an object"),
    (b'{"key": ["texts"], "value": ["[]"]}', 400, "nothing to embed"),
    (b'{"key": ["text"], "value": ["\\ud800"]}', 400, "no valid Unicode"),
    (b'{"key": ["text"], "value": ["a"], "logid": "x"}', 400, "logid"),
    (b'{"key": ["text", "similarity"], "value": ["a", "true"]}', 400, "similarity needs images"),
    (b'{"key": ["text", "classify"], "value": ["a", "true"]}', 400, "classify needs images"),
    (b'{"key": ["text", "classify"], "value": ["a", "1"]}', 400, 'classify "1": expected "true"'),
    (TEN_THOUSAND, 413, "10000 texts, at most 512"),
    (b'{"key": ["texts"], "value": ["[' + b"[]," * 2_000_000 + b'[]]"]}', 400, "commas"),
]


@pytest.mark.parametrize("body,status,message", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_bad_request_says_why(service, body, status, message):
    found, answer = service.post(body)
    assert (found, answer["key"]) == (status, [])
    assert answer["err_no"] == {400: 51, 413: 52}[status]
    assert message in answer["err_msg"]


def test_other_pages(service):
    assert service.post(b"{}", "/other/prediction")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def test_load(service, images, expected):
    """2,000 requests of 8 clients, 5 % malformed: every one is answered as it should be."""
    good = encoded(images)
    large = b'{"key": ["image"], "value": ["' + b"A" * (100 << 20) + b'"]}'
    malformed = [(large, 413, "at most 33554432"), *BAD_BODIES, "image item", "text item"]

    def client(number: int) -> list[float]:
        rng, seconds = random.Random(number), []
        for turn in range(250):
            start = time.perf_counter()
            bad = malformed[rng.randrange(len(malformed))] if turn % 20 == number % 20 else None
            if isinstance(bad, tuple):
                status, answer = service.post(bad[0])
                assert status == bad[1]
                assert bad[2] in answer["err_msg"]
                continue
            chosen = rng.choices(range(8), k=rng.randint(1, 3))
            texts = rng.choices(range(4), k=rng.randint(1, 5))
            items, reasons = [good[i] for i in chosen], [None] * len(chosen)
            words, text_reasons = [TEXTS[i] for i in texts], [None] * len(texts)
            if bad == "image item":
                item, reason = rng.choice([*BAD_IMAGES.items(), *WRONG_TYPES.items()])
                items, reasons = [*items, item], [*reasons, reason]
            elif bad == "text item":
                item, reason = rng.choice([*BAD_TEXTS.items(), *WRONG_TYPES.items()])
                words, text_reasons = [item, *words], [reason, *text_reasons]
            both = {"images": items, "texts": words}
            asked = both if bad else rng.choice([both, {"images": items}, {"texts": words}])
            status, values, message = service.ask(**asked)
            assert status == 200, message
            if "images" in asked:
                check(values, "image", reasons, expected[0][chosen])
            if "texts" in asked:
                check(values, "text", text_reasons, expected[1][texts])
            seconds.append(time.perf_counter() - start)
        return seconds

    def storm() -> list[float]:
        with ThreadPoolExecutor(8) as pool:
            return sorted(s for part in pool.map(client, range(8)) for s in part)

    storm_memory = []
    for _ in range(2):  # the first one fills caches
        seconds = storm()
        storm_memory.append(service.memory_mb())
    assert service.process.poll() is None
    print(
        f"{len(seconds)} good requests, p50 {seconds[len(seconds) // 2] * 1e3:.0f} ms, p99 "
        f"{seconds[len(seconds) * 99 // 100] * 1e3:.0f} ms, memory after each round {storm_memory}",
        file=sys.stderr,
    )
    assert storm_memory[1] < storm_memory[0] + 30
    assert storm_memory[1] < 1500


def test_a_slow_client_does_not_hold_the_others_up(service):
    with socket.create_connection(("127.0.0.1", service.http_port)) as slow:
        slow.sendall(
            b"POST /ernie_vil2/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )
        assert service.ask(text="red")[0] == 200
    with socket.create_connection(("127.0.0.1", service.http_port)) as chunked:
        chunked.sendall(
            b"POST /ernie_vil2/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert chunked.recv(100).startswith(b"HTTP/1.1 411 ")


def test_it_stops_with_all_its_processes_after_the_last_answer(service, images):
    pids = service.processes()
    assert len(pids) >= 2
    answers = []
    request = threading.Thread(
        target=lambda: answers.append(service.ask(images=encoded(images) * 8, texts=["a"] * 500))
    )
    request.start()
    time.sleep(0.05)
    assert service.stop() == 0
    request.join()
    assert answers[0][0] == 200
    assert ended(pids)


# -- What keeps it from starting -------------------------------------------------------------------


def test_verify(artefact, tmp_path):
    service = Service(artefact, tmp_path, "--verify")
    assert not service.error, service.error
    assert service.wait() == 0


def test_a_damaged_model_does_not_start(artefact, tmp_path):
    folder = shutil.copytree(artefact, tmp_path / "model")
    weights = folder / "fp32" / "text.pdiparams"
    data = weights.read_bytes()
    weights.write_bytes(data[:-40] + np.float32([3] * 10).tobytes())
    service = Service(folder, tmp_path)
    assert service.process.returncode == 2
    assert f"{weights} is damaged or was changed: its SHA-256" in service.error
    reseal(folder)  # what follows is for the other checks to find
    service = Service(folder, tmp_path)
    assert service.process.returncode == 2
    assert "gives other text embeddings than the trained model" in service.error
    weights.write_bytes(data[:-40] + np.float32([np.nan] * 10).tobytes())
    reseal(folder)
    service = Service(folder, tmp_path)
    assert service.process.returncode == 2
    assert "text embeddings are not finite" in service.error
    weights.write_bytes(data[:100])
    reseal(folder)
    service = Service(folder, tmp_path)
    assert service.process.returncode == 2
    assert f"{weights} cannot be loaded by Paddle 2" in service.error


def test_a_port_in_use_and_a_folder_without_a_model(artefact, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        service = Service(artefact, tmp_path, "--rpc-port", port)
    assert service.process.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be listened on" in service.error
    service = Service(tmp_path, tmp_path)
    assert service.process.returncode == 2
    assert "holds no inference.yml" in service.error


@pytest.mark.parametrize(
    "options,message",
    [
        (["--http-port", "70000"], "65535"),
        (["--rpc-port", "9" * 5000], "65535"),
        (["--http-port", "18082", "--rpc-port", "18082"], "18082"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    ],
)
def test_addresses_that_are_none(artefact, tmp_path, options, message):
    service = Service(artefact, tmp_path, *options)
    assert service.process.returncode == 2
    assert message in service.error
    assert "Traceback" not in service.error
