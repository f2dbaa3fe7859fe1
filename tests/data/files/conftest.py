"""Stores, and files of which a few fit into the cache."""

import pytest

from tests.support.stores import Http, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def http():
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server = Http()
    yield server
    server.stop()


def content(number: int, size: int = 20_000) -> bytes:
    """A file's bytes, which tell it from the others at any place."""
    return number.to_bytes(2, "big") * (size // 2)
