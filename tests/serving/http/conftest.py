"""The application in this process, and tools/serve.py as a process."""

import signal
import time

import pytest
from fastapi.testclient import TestClient

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.commands.serve import make_finder
from ernie_vil2.serving.http.app import create_app
from ernie_vil2.serving.http.service import Service
from ernie_vil2.serving.predictor import Predictor
from ernie_vil2.serving.web.limits import ApiKeys
from tests.support.http_requests import (
    LIMITS,
)
from tests.support.server_process import Process, serving


@pytest.fixture(scope="module")
def predictor(tiny_artefact):
    return Predictor(tiny_artefact)


@pytest.fixture(scope="module")
def make_client(tiny_artefact):
    clients = []

    def make(
        limits=LIMITS, keys=(), load=None, wait=True, db=None, host="", folder=None, **batching
    ):
        folder = folder or tiny_artefact
        load = load or (lambda: Predictor(folder))
        keys = keys if isinstance(keys, ApiKeys) else ApiKeys(list(keys))
        artefact = Artefact.open(folder)
        service = Service(artefact, load, limits, keys, **batching)
        finder = make_finder(str(db), artefact, service, host) if db else None
        client = TestClient(create_app(service, finder), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        clients.append(client)
        end = time.monotonic() + 20
        while wait and client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(make_client):
    return make_client()


@pytest.fixture
def start(tiny_artefact, tmp_path):
    started = []

    def start(*options, artefact=tiny_artefact, **environment):
        started.append(Process(artefact, tmp_path / f"{len(started)}.log", *options, **environment))
        return started[-1]

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tiny_artefact, tmp_path_factory):
    options = ["--max-body-mb", "1", "--body-timeout", "1", "--max-pixels", "10000"]
    with serving(tiny_artefact, tmp_path_factory.mktemp("server") / "log", *options) as server:
        yield server
