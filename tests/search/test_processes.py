"""Collections in several processes, some of which are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.search.open import open_collection
from tests.support.collections import DIM
from tests.support.paths import ROOT, SCRIPTS
from tests.support.scripts.collection_process import SIZE, of_add

KILLS = 20


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "collection_process.py"), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Told:
    """What writers have said of their adds; `unsure` are those whose deletion was under way."""

    def __init__(self):
        self.added, self.deleted, self.unsure = set(), set(), set()

    def take(self, lines: list[str]) -> None:
        for what, number in map(str.split, lines):
            (self.added if what == "added" else self.deleted).add(int(number))

    def killed(self) -> None:
        last = max(self.added, default=0)
        self.unsure |= {last - 4} if last % 5 == 4 else set()

    def check(self, collection) -> None:
        """Nothing that was told is lost; what was under way is there whole or not at all."""
        adds = [of_add(number) for number in range(max(self.added, default=-1) + 2)]
        expected = [picture for pictures, _ in adds for picture in pictures]
        found = collection.get([picture.id for picture in expected])
        there = set()
        for number, (pictures, _) in enumerate(adds):
            some = found[SIZE * number : SIZE * (number + 1)]
            assert some in (pictures, [None] * SIZE), number
            there |= {number} if some == pictures else set()
        assert not self.added - self.deleted - self.unsure - there, "told of and lost"
        assert not self.deleted & there, "deleted, and there"
        assert collection.count() == SIZE * len(there)
        vectors = collection.vectors([x.id for x in found if x is not None])
        np.testing.assert_array_equal(vectors, np.concatenate([adds[x][1] for x in sorted(there)]))


@contextmanager
def writing(uri, told: Told):
    """A writer that goes on where the last one ended; killed at the end."""
    writer = start("write", uri, max(told.added, default=-1) + 1)
    watch = threading.Timer(300, writer.kill)  # of one that hangs nothing more is read
    watch.start()
    try:
        yield writer
    finally:
        watch.cancel()
        writer.kill()
        told.take(writer.communicate(timeout=300)[0].splitlines())
        told.killed()


def read_lines(process, told: Told, count: int) -> None:
    for _ in range(count):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        told.take([line])


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_they_told_of(tmp_path):
    uri, told = str(tmp_path / "pictures.db"), Told()
    for kill in range(KILLS):
        with writing(uri, told) as writer:
            read_lines(writer, told, 1 + kill % 6)
            time.sleep(kill / KILLS * 0.03)
            if kill == 0:
                with pytest.raises(UserError, match="another process writes"):
                    open_collection(uri, write=True)
                reader = open_collection(uri)
        assert writer.returncode == -signal.SIGKILL
        told.check(reader)  # open all the time
    writer = open_collection(uri, write=True)
    told.check(writer)
    writer.optimize()
    told.check(writer)
    told.check(open_collection(uri))
    assert len(told.added) > KILLS


@pytest.mark.slow
def test_readers_see_whole_adds_while_one_writes(tmp_path):
    uri, told = str(tmp_path / "pictures.db"), Told()
    with writing(uri, told) as writer:
        read_lines(writer, told, 1)
        readers = [start("read", uri) for _ in range(2)]
        for reader in readers:
            first = int(reader.stdout.readline())
            while int(reader.stdout.readline()) < first + 3:  # it follows; "" is an error
                pass
        for reader in readers:
            _, complaints = reader.communicate("\n", timeout=300)
            assert reader.returncode == 0, complaints
    told.check(open_collection(uri))


@pytest.mark.slow
def test_a_process_that_searched_ends_well(tmp_path):
    """LanceDB's threads made every second one abort: `leaving.py`."""
    uri = str(tmp_path / "pictures.db")
    with open_writer(uri) as collection:
        collection.add(*of_add(0))
    processes = [start("ask", uri) for _ in range(6)]
    ends = [(x.communicate(timeout=300), x.returncode) for x in processes]
    assert [code for _, code in ends] == [0] * len(ends), ends


@contextmanager
def open_writer(uri):
    collection = open_collection(uri, dim=DIM, write=True)
    yield collection
    collection.close()


@pytest.mark.slow
def test_milvus_is_killed_and_started_again(milvus):
    """A writer goes on by itself, a reader too, and what was told of is there."""
    uri, told = milvus.uri("killed"), Told()
    with writing(uri, told) as writer:
        read_lines(writer, told, 12)
        reader = open_collection(uri)
        milvus.kill()
        time.sleep(0.5)
        milvus.start()
        milvus.wait()
        read_lines(writer, told, 12)
        with pytest.raises(UserError, match=f"process {writer.pid} on"):
            open_collection(uri, write=True)
    told.check(reader)
    again = open_collection(uri, write=True)  # the killed one is not in the way
    told.check(again)
    again.close()
    reader.close()
