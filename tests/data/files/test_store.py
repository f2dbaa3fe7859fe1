"""A store that fails: what is asked again, what is an answer, and what is told in the end."""

import threading
import time

import pytest

from ernie_vil2.data.files import retry, store, systems
from ernie_vil2.data.files.retry import Retry, StoreError
from ernie_vil2.errors import UserError
from tests.data.files.conftest import content

THREE = Retry(attempts=3, seconds=20)
NEVER = threading.Event()
BODY = content(7, 200_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.02)


def fetched(url: str, folder, retry: Retry = THREE) -> bytes:
    (remote,) = store.describe([url], retry)
    store.fetch(remote, str(folder / "fetched"), retry, NEVER)
    return (folder / "fetched").read_bytes()


@pytest.mark.parametrize(
    "faults", [(), ("503", "503"), ("drop", "drop"), ("short", "drop"), ("429", "500"), ("slow",)]
)
def test_faults_that_pass(http, tmp_path, faults):
    url = http.put("/a.tar", BODY, *faults)
    assert fetched(url, tmp_path) == BODY
    assert http.asked["GET", "/a.tar"] == 1 + len(faults) - faults.count("slow")


@pytest.mark.parametrize(
    ("fault", "told"),
    [("503", "503, message"), ("drop", "payload"), ("short", "100000 bytes came of 200000")],
)
def test_faults_that_stay(http, tmp_path, fault, told):
    url = http.put("/a.tar", BODY, *[fault] * 9)
    with pytest.raises(StoreError, match=told) as caught:
        fetched(url, tmp_path)
    assert str(caught.value).startswith(f"{url} cannot be had: ")
    assert "(attempt 3, after " in str(caught.value)
    assert str(caught.value).endswith(
        "; see whether the store can be reached from here, then start again"
    )
    assert "\n" not in str(caught.value) and not caught.value.final
    assert http.asked["GET", "/a.tar"] == 3


def test_a_silent_server_is_not_waited_for(http, tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "_SILENCE", 0.3)
    monkeypatch.setattr(systems, "_systems", {})
    url = http.put("/a.tar", BODY, "silent")
    assert fetched(url, tmp_path) == BODY and http.asked["GET", "/a.tar"] == 2


@pytest.mark.parametrize(
    ("fault", "told"), [("404", "see to the name"), ("403", "see to the credentials")]
)
def test_an_answer_is_not_asked_for_again(http, tmp_path, fault, told):
    url = http.put("/a.tar", BODY, *[fault] * 9)
    with pytest.raises(StoreError, match=told) as caught:
        fetched(url, tmp_path)
    assert caught.value.final and http.asked["GET", "/a.tar"] == 1


def test_a_missing_file_and_a_missing_server(http):
    with pytest.raises(StoreError, match=r"/no\.tar cannot be had: .*404") as caught:
        store.describe([http.url + "/no.tar"], THREE)
    assert caught.value.final
    http.stop()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"attempt 3.*see whether the store can be reached"):
        store.describe([http.url + "/a.tar"], THREE)
    with pytest.raises(StoreError, match=r"attempt \d\b"):  # the time ends it, not the count
        store.describe([http.url + "/a.tar"], Retry(attempts=100, seconds=0.2))
    assert time.monotonic() - began < 5


def test_a_file_that_changes_after_it_was_listed_is_refused(http, tmp_path):
    url = http.put("/a.tar", BODY)
    (remote,) = store.describe([url], THREE)
    http.put("/a.tar", BODY[::-1])
    with pytest.raises(StoreError, match="has changed since it was listed"):
        store.fetch(remote, str(tmp_path / "a"), THREE, NEVER)


def test_a_folder_costs_one_listing(s3):
    for number in range(20):
        s3.put(f"many/{number:02}.tar", content(number, 100 + 2 * number))
    before = [len(s3.requests(method)) for method in ("GET", "HEAD")]
    urls = [f"s3://data/many/{number:02}.tar" for number in (7, 3, 19, 0, 11)]
    assert [remote.size for remote in store.describe(urls, THREE)] == [114, 106, 138, 100, 122]
    after = [len(s3.requests(method)) for method in ("GET", "HEAD")]
    assert [b - a for a, b in zip(before, after)] == [1, 0]
    with pytest.raises(StoreError, match=r"many/x\.tar cannot be had: no such file"):
        store.describe([*urls, "s3://data/many/x.tar"], THREE)
    with pytest.raises(StoreError, match="many is a folder"):
        store.describe(["s3://data/many"], THREE)


def test_pauses_grow_and_differ(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.5)
    pauses = []

    def fail():
        raise ConnectionError("nobody there")

    with pytest.raises(StoreError, match=r"nobody there \(attempt 10, "):
        retry.insist(fail, "s3://data/a.tar", Retry(10, 1000), pauses.append)
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest))
    assert len(pauses) == 9 and len(set(pauses)) == 9


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(systems, "_systems", {})
    monkeypatch.setitem(systems.sys.modules, "fsspec", None)
    with pytest.raises(
        UserError, match=r'a\.tar needs a package .*pip install "ernie_vil2\[data]"'
    ):
        systems.system("s3://data/a.tar")
