"""The Paddle Serving service under clients that do it harm, in raw bytes to the real one."""

import base64
import io
import json
import os
import re
import signal
import socket
import threading
import time

import pytest
import yaml
from PIL import Image

from tests.support.paddle_serving import DEFAULTS, Service, marks

pytestmark = marks

ANSWER = re.compile(rb"HTTP/1\.1 \d")
PATH = "/ernie_vil2/prediction"
TEXT = b'{"key": ["text"], "value": ["a red circle"]}'


def request(body=TEXT, *headers: str, method="POST", path=PATH, length=None) -> bytes:
    length = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def start(artefact, folder, prefix=(), **limits) -> Service:
    """A service with other limits; `worker_num` and `is_thread_op` are where Paddle has them."""
    settings = yaml.safe_load(DEFAULTS.read_text())
    for name, place in (("worker_num", settings), ("is_thread_op", settings["dag"])):
        place[name] = limits.pop(name, place[name])
    settings["limits"].update(limits)
    (folder / "settings.yml").write_text(yaml.safe_dump(settings))
    service = Service(artefact, folder, "--config", folder / "settings.yml", prefix=prefix)
    assert not service.error, service.error
    return service


@pytest.fixture(scope="module")
def service(artefact, tmp_path_factory):
    service = start(artefact, tmp_path_factory.mktemp("front"), seconds=2, worker_num=1)
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def patient(artefact, tmp_path_factory):
    service = start(artefact, tmp_path_factory.mktemp("patient"), seconds=60, worker_num=1)
    yield service
    assert service.stop() == 0


def connect(service, source="127.0.0.1") -> socket.socket:
    address = ("127.0.0.1", service.http_port)
    return socket.create_connection(address, timeout=60, source_address=(source, 0))


def until_closed(connection) -> bytes:
    """All that comes until the other side closes; a test fails if it never does."""
    received = b""
    try:
        while chunk := connection.recv(1 << 16):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def read_answer(connection) -> tuple[int, dict]:
    """Not a byte more: another answer may come behind it."""
    with connection.makefile("rb", buffering=0) as file:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = file.read(1)
            assert byte, head
            head += byte
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        body = b""
        while len(body) < length:
            body += file.read(length - len(body))
    return int(head.split()[1]), json.loads(body)


# -- What a request is -----------------------------------------------------------------------------

HIDDEN = request(path="/ernie_vil2/hidden")
SMUGGLED = {
    "two lengths": request(b"", f"Content-Length: {len(HIDDEN)}", length=0) + HIDDEN,
    "a space before the colon": request(HIDDEN, "Transfer-Encoding : chunked", length=0),
    "a length and chunks": request(b"0\r\n\r\n" + HIDDEN, "Transfer-Encoding: chunked"),
    "a signed length": request(HIDDEN, length=f"+{len(HIDDEN)}"),
    "a length of 5,000 digits": request(HIDDEN, length="9" * 5000),
    "a folded header": request(HIDDEN, "X: a\r\n Content-Length: 0"),
    "a bare CR": request(HIDDEN, "X: a\rb"),
    "a list of lengths": request(HIDDEN, length=f"{len(HIDDEN)}, 0"),
    "no host": b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_bytes_that_two_servers_read_differently_are_refused(service, data):
    with connect(service) as connection:
        connection.sendall(data)
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 4")
    assert len(ANSWER.findall(received)) == 1
    assert json.loads(received.partition(b"\r\n\r\n")[2])["err_no"] in (51, 52)


def test_the_body_of_a_get_is_no_request(service):
    with connect(service) as connection:
        connection.sendall(request(HIDDEN, "Connection: close", method="GET", path="/healthz"))
        assert len(ANSWER.findall(until_closed(connection))) == 1


def test_requests_one_behind_the_other(service):
    with connect(service) as connection:
        connection.sendall(request() + request(b"{}") + request())
        for status in (200, 400, 200):
            assert read_answer(connection)[0] == status


def test_a_client_that_sends_no_more_gets_its_answer(service):
    with connect(service) as connection:
        connection.sendall(request())
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 200 " in until_closed(connection)  # an interim 100 may come before


# -- Clients that hold a connection ----------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"POST /ernie_vil2/prediction HTTP/1.1\r\nHost: x\r\nX: "])
def test_dripping_headers_end_in_time(service, sent):
    with connect(service) as connection:
        connection.settimeout(0.2)
        end = time.monotonic() + 30
        connection.sendall(sent)
        while time.monotonic() < end:
            try:
                if not connection.recv(1000):
                    break
            except socket.timeout:
                connection.sendall(b"x" if sent else b"")
            except OSError:
                break
        assert time.monotonic() < end


def test_a_body_that_does_not_arrive(service):
    with connect(service) as connection:
        connection.sendall(request(b"{", length=100))
        assert read_answer(connection)[0] == 408


def test_sockets_of_one_client_leave_room_for_the_others(patient):
    held = []
    try:
        for _ in range(300):
            held.append(connect(patient))
            held[-1].sendall(b"POST")
        with connect(patient, "127.0.0.2") as other:
            other.sendall(request(b"", method="GET", path="/healthz") + request())
            assert read_answer(other) == (200, {"status": "ok"})
            assert read_answer(other)[0] == 200
        assert health(patient) == 200  # from the address that holds them all
        assert patient.post(TEXT)[0] == 503
    finally:
        for connection in held:
            connection.close()


def test_bodies_that_do_not_arrive_take_no_places(patient):
    held = [connect(patient) for _ in range(200)]
    for connection in held:
        connection.sendall(request(b"{", length=100))
    assert patient.post(TEXT)[0] == 200
    for connection in held:
        connection.close()


FEW_FILES = ("bash", "-c", 'ulimit -n 200 && exec "$@"', "bash")


def test_few_files(artefact, tmp_path):
    """Clients cannot use up all that it may open: it works on, and its log stays short."""
    service = start(artefact, tmp_path, prefix=FEW_FILES, seconds=60)
    held = []
    try:
        for i in range(400):
            port = (service.http_port, service.rpc_port)[i % 2]
            source = (f"127.0.0.{2 + i % 100}", 0)
            held.append(socket.create_connection(("127.0.0.1", port), 60, source))
        time.sleep(1)
        for connection in held:
            connection.close()
        assert service.ask(text="red")[0] == 200
    finally:
        assert service.stop() == 0
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) < 50_000


# -- Work ------------------------------------------------------------------------------------------


def png(width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_text_does_not_wait_for_pictures(patient):
    pictures = [png(5000, 4000)] * 6
    order = []

    def ask(name, **values):
        assert patient.ask(**values)[0] == 200
        order.append(name)

    threads = [
        threading.Thread(target=ask, args=["image"], kwargs={"images": pictures}) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    ask("text", text="red")
    for thread in threads:
        thread.join()
    assert sorted(order) == ["image", "image", "text"]
    assert order[-1] == "image"


def many_scans() -> str:
    """A progressive JPEG that repeats its last scan: 2,000 passes over 12 million pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), "red").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return base64.b64encode(data[:last] + data[last:-2] * 2000 + data[-2:]).decode()


def test_pictures_made_to_take_long_are_refused(patient):
    sent = [many_scans(), png(8000, 7000), png(30, 30)]
    status, values, _ = patient.ask(images=sent)
    assert status == 200
    scans, pixels, good = values["image_errors"]
    assert "scans" in scans
    assert "56000000 pixels, at most 50000000" in pixels
    assert good is None


def test_the_memory_of_large_pictures_goes_back(patient):
    small, large = png(30, 30), png(7000, 7000)
    patient.ask(image=small)
    before = patient.memory_mb()
    for _ in range(2):
        assert patient.ask(image=large)[0] == 200
    end = time.monotonic() + 30
    while patient.memory_mb() > before + 100 and time.monotonic() < end:
        time.sleep(0.2)
    assert patient.memory_mb() < before + 100


def test_health_tells_of_a_tower_that_does_not_answer(artefact, tmp_path):
    service = start(artefact, tmp_path, is_thread_op=False, seconds=1)
    children = service.processes()[2:]
    asking = threading.Thread(target=lambda: service.post(TEXT))
    try:
        assert health(service) == 200
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        asking.start()
        end = time.monotonic() + 60
        while health(service) == 200 and time.monotonic() < end:
            time.sleep(0.2)
        assert health(service) == 503
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        asking.join()
        assert health(service) == 200
    finally:
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        assert service.stop() == 0


def health(service) -> int:
    with connect(service) as connection:
        connection.sendall(request(b"", method="GET", path="/healthz"))
        return read_answer(connection)[0]
