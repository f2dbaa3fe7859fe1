"""Files of a real S3 server, read by several processes through one small cache."""

import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie_vil2.data.files import build, cache, room
from ernie_vil2.data.files.build import open_files
from ernie_vil2.data.files.cache import Cache
from ernie_vil2.data.files.remote import RemoteFiles
from ernie_vil2.data.files.retry import Retry, StoreError
from ernie_vil2.errors import UserError
from tests.data.files.conftest import content
from tests.support.paths import ROOT

FORK = multiprocessing.get_context("fork")
COUNT, SIZE, BOUND = 50, 20_000, 200_000  # ten of fifty files fit
ONCE = Retry(attempts=1, seconds=1)


@pytest.fixture(scope="module")
def urls(s3):
    return [s3.put(f"set/{number:02}.tar", content(number, SIZE)) for number in range(COUNT)]


def on_disk(shared: Cache) -> int:
    """Bytes of all files and of all drafts as they will be, while nothing makes room."""
    with shared._room.locked():
        return SIZE * len(
            {p.name for f in ("drafts", "files") for p in (shared.folder / f).iterdir()}
        )


def read_all(files: RemoteFiles, seed: int, results) -> None:
    """Read files in an order of this process's own, with some kept open."""
    order = random.Random(seed).sample(range(COUNT), 20)
    opened, wrong = [], 0
    for place, number in enumerate(order):
        files.ahead(order[place + 1 : place + 4])
        opened.append((number, files.open(number)))
        if len(opened) > 3:
            wrong += is_wrong(*opened.pop(0))
    results.put(wrong + sum(is_wrong(*pair) for pair in opened))


def is_wrong(number: int, file) -> bool:
    with file:
        return os.pread(file.fileno(), SIZE + 1, 0) != content(number, SIZE)


def test_processes_share_a_small_cache_and_one_is_killed(urls, tmp_path):
    """Ten of fifty files fit: each read has the right bytes, and the disk never has more."""
    shared = Cache(tmp_path, BOUND)
    files = RemoteFiles(urls, shared)
    with files.open(3) as file:  # the parent's connections are not the children's
        assert file.read() == content(3, SIZE)
    results = FORK.Queue()
    workers = [FORK.Process(target=read_all, args=(files, n, results)) for n in range(3)]
    for worker in workers:
        worker.start()
    most = 0
    while any(worker.is_alive() for worker in workers):
        most = max(most, on_disk(shared))
        if most > BOUND // 2:
            workers[0].kill()
        time.sleep(0.002)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0]
    assert [results.get(timeout=5) for _ in range(2)] == [0, 0]
    assert BOUND // 2 < most <= BOUND
    read_all(pickle.loads(pickle.dumps(files)), 9, results)
    assert results.get(timeout=5) == 0 and on_disk(shared) <= BOUND


def test_a_killed_process_leaves_nothing_that_is_believed(http, tmp_path):
    """It has half a file, another process waits for it, takes over and fetches the file anew."""
    body = content(5, 2_000_000)
    url = http.put("/a.tar", body, "slow")
    files = RemoteFiles([url], Cache(tmp_path, 3_000_000))
    results = FORK.Queue()

    def read():
        with files.open(0) as file:
            results.put(file.read() == body)

    first, second = (FORK.Process(target=read) for _ in range(2))
    first.start()
    wait_for(lambda: sum(p.stat().st_size for p in (tmp_path / "drafts").iterdir()) > 0)
    second.start()
    time.sleep(0.1)
    first.kill()
    second.join(20)
    assert results.get(timeout=5) and first.exitcode == -signal.SIGKILL
    assert http.asked["GET", "/a.tar"] == 2 and not list((tmp_path / "drafts").iterdir())


def test_an_abandoned_draft_is_removed_and_a_damaged_file_fetched_anew(urls, tmp_path):
    draft = tmp_path / "drafts" / f"{'0' * 32}-{SIZE}-other.tar"
    draft.parent.mkdir()
    draft.write_bytes(b"half")
    files = RemoteFiles(urls[:1], Cache(tmp_path, BOUND))
    assert not draft.exists()
    files.open(0).close()
    (place,) = (tmp_path / "files").iterdir()
    place.write_bytes(b"cut off")
    with files.open(0) as file:
        assert file.read() == content(0, SIZE)


def test_a_changed_file_is_another(s3, tmp_path):
    shared = Cache(tmp_path, BOUND)
    for body in (b"one", b"two"):
        files = RemoteFiles([s3.put("changing.tar", body)], shared)
        with files.open(0) as file:
            assert file.read() == Path(file.name).read_bytes() == body


def test_each_file_is_fetched_once_for_all_who_wait(http, tmp_path):
    url = http.put("/a.tar", content(1, SIZE), "slow")
    files = RemoteFiles([url], Cache(tmp_path, BOUND))
    readers = [FORK.Process(target=lambda: files.open(0).close()) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    assert [r.exitcode for r in readers] == [0] * 6 and http.asked["GET", "/a.tar"] == 1


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_file_that_another_ends_while_this_one_asks_for_it(urls, tmp_path, monkeypatch, succeeds):
    """What was opened as its draft is no draft any more when it is locked."""
    files = RemoteFiles(urls[:1], Cache(tmp_path, BOUND))
    fetch, fetched = files._fetch, []

    def locked_late(file) -> bool:
        monkeypatch.setattr(cache, "lock", room.lock)
        draft = Path(file.name)
        draft.write_bytes(content(0, SIZE))
        draft.rename(tmp_path / "files" / draft.name) if succeeds else draft.unlink()
        return room.lock(file)

    def fetch_locked(number, path, stopped) -> None:
        fetch(number, path, stopped)
        with open(path, "rb") as draft:
            fetched.append(room.lock(draft))

    monkeypatch.setattr(cache, "lock", locked_late)
    monkeypatch.setattr(files, "_fetch", fetch_locked)
    with files.open(0) as file:
        assert file.read() == content(0, SIZE)
    assert fetched == ([] if succeeds else [False])


def test_what_is_in_use_makes_room_last(urls, tmp_path, logged):
    files = RemoteFiles(urls, Cache(tmp_path, 3 * SIZE))
    held = [files.open(0)]  # used longest ago, but open
    for number in (1, 2, 3, 4):
        files.open(number).close()
    names = sorted(path.name[-6:] for path in (tmp_path / "files").iterdir())
    assert names == ["00.tar", "03.tar", "04.tar"] and not logged.records
    held += [files.open(number) for number in (3, 4, 5)]  # more than fit
    assert "too small for the files that are read at once" in logged.text
    for number, file in zip((0, 3, 4, 5), held):
        with file:
            assert file.read() == content(number, SIZE)


def test_files_are_fetched_ahead_as_far_as_they_fit(urls, s3, tmp_path):
    files = RemoteFiles(urls, Cache(tmp_path, 6 * SIZE))
    files.ahead([7, 7, 8, 9, 10, 11])
    wait_for(lambda: len(list((tmp_path / "files").iterdir())) == 3)
    time.sleep(0.2)
    names = sorted(path.name[-6:] for path in (tmp_path / "files").iterdir())
    assert names == ["07.tar", "08.tar", "09.tar"]  # half of the cache
    asked = len(s3.requests("GET"))
    files.open(8).close()
    assert len(s3.requests("GET")) == asked


def test_a_process_that_fetches_ahead_ends_at_once_and_leaves_no_draft(http, tmp_path):
    url = http.put("/a.tar", content(5, 20_000_000), "slow")
    script = f"""
from ernie_vil2.data.files.cache import Cache
from ernie_vil2.data.files.remote import RemoteFiles
import time
files = RemoteFiles(["{url}"], Cache("{tmp_path}", 10**8))
files.ahead([0])
while not list(files._cache._drafts.iterdir()):
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=20, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not list((tmp_path / "drafts").iterdir()) + list((tmp_path / "files").iterdir())


def test_a_file_that_stays_away_is_told_at_once_to_all_until_a_new_start(s3, tmp_path):
    url = s3.put("away.tar", b"here")
    files = RemoteFiles([url], Cache(tmp_path, BOUND), ONCE)
    s3.fail("away.tar")
    with pytest.raises(StoreError, match=r"away\.tar cannot be had: .*HTTP 503"):
        files.open(0)
    s3.fail("away.tar", failing=False)
    asked = len(s3.requests("GET"))
    with pytest.raises(StoreError, match=r"away\.tar cannot be had: .*HTTP 503"):
        RemoteFiles.open(pickle.loads(pickle.dumps(files)), 0)
    assert len(s3.requests("GET")) == asked
    RemoteFiles([url], Cache(tmp_path, BOUND), ONCE).open(0).close()


def test_a_disk_that_refuses_is_not_the_stores_fault(urls, tmp_path):
    files = RemoteFiles(urls, Cache(tmp_path, BOUND), ONCE)
    told = FORK.SimpleQueue()

    def read():
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2,) * 2)  # a full disk of this process's
        try:
            files.open(0)
        except UserError as error:
            told.put((type(error), str(error)))

    reader = FORK.Process(target=read)
    reader.start()
    reader.join(20)
    kind, text = told.get()
    assert kind is UserError and "cannot be written (File too large): make room" in text
    assert not list((tmp_path / "drafts").iterdir()) + list((tmp_path / "away").iterdir())


def test_bounds_that_cannot_hold_are_told(urls, tmp_path):
    with pytest.raises(UserError, match=r"00\.tar has 20000 bytes, more than the cache"):
        RemoteFiles(urls, Cache(tmp_path, SIZE - 1))
    with pytest.raises(UserError, match=r"does not fit: the disk of .* has \d+ free"):
        Cache(tmp_path, 1 << 60)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        Cache(tmp_path / "file" / "cache")


def test_the_environment_names_folder_and_bound(urls, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_options", build.StoreOptions())  # not those of an earlier run
    monkeypatch.setenv("ERNIE_VIL2_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("ERNIE_VIL2_CACHE_GB", "0.0001")
    files = open_files("s3://data/set/{00..06}.tar")
    for number in range(7):
        files.open(number).close()
    assert len(list((tmp_path / "here" / "files").iterdir())) == 5
    monkeypatch.setenv("ERNIE_VIL2_CACHE_GB", "much")
    with pytest.raises(UserError, match="ERNIE_VIL2_CACHE_GB is much: expected a number above 0"):
        open_files("s3://data/set/")
    with pytest.raises(UserError, match="two sources of a mixture"):
        open_files([urls[0], __file__])


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
