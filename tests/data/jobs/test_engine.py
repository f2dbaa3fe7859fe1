"""A map over pieces: what is done stays done, and the files do not tell who wrote them, or when."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from ernie_vil2.data.jobs.engine import HERE, Engine, map_pieces, pieces
from ernie_vil2.errors import UserError
from tests.support.files import contents
from tests.support.paths import ROOT


def test_pieces_cover_all_once():
    for size, length in [(10, 3), (9, 3), (1, 5), (0, 5), (5000, None), (10**8, None)]:
        found = pieces(size, length)
        assert sum(map(len, found)) == size and len(found) <= 4096 + 1
        assert all(one.stop == other.start for one, other in zip(found, found[1:]))
        assert not found or (found[0].start, found[-1].stop) == (0, size)


class Squares:
    """Writes a piece's squares, and counts in a file who did what."""

    def __init__(self, log, die_at=(), deaths=1):
        self.log, self.die_at, self.deaths = log, die_at, deaths

    def __call__(self, piece, folder):
        (folder / "half").write_text("a draft")
        with open(self.log, "a") as log:
            log.write(f"{piece.start}\n")
        if piece.start in self.die_at and self.done().count(piece.start) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "half").unlink()
        (folder / "squares").write_text("".join(f"{number**2}\n" for number in piece))

    def done(self):
        return [int(line) for line in self.log.read_text().split()]


def joined(places):
    return [int(line) for place in places for line in (place / "squares").read_text().split()]


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_each_piece_is_done_once(tmp_path, processes):
    work, engine = Squares(tmp_path / "log"), Engine(processes=processes)
    places = map_pieces(work, pieces(95, 10), tmp_path / "map", "squares", engine)
    assert joined(places) == [number**2 for number in range(95)]
    assert sorted(work.done()) == list(range(0, 95, 10))
    before = contents(tmp_path / "map")
    assert map_pieces(work, pieces(95, 10), tmp_path / "map", "squares", HERE) == places
    assert len(work.done()) == 10 and contents(tmp_path / "map") == before


def test_a_worker_that_dies_is_replaced_so_often(tmp_path, logged):
    work = Squares(tmp_path / "log", die_at=(20, 50))
    places = map_pieces(work, pieces(95, 10), tmp_path / "map", "squares", Engine(processes=2))
    assert joined(places) == [number**2 for number in range(95)]
    assert work.done().count(20) == 2 and logged.text.count("signal 9") == 2
    assert not [path for path in (tmp_path / "map").iterdir() if path.name.startswith(".aside")]


def test_a_piece_that_kills_every_worker_is_named(tmp_path):
    work = Squares(tmp_path / "log", die_at=(20,), deaths=99)
    with pytest.raises(UserError, match=r"squares, records 20 to 29: .*signal 9 \(Killed\)"):
        map_pieces(work, pieces(40, 10), tmp_path / "map", "squares", Engine(processes=1))
    assert work.done().count(20) == 4


@pytest.mark.parametrize("processes", [0, 2])
def test_a_bug_names_the_piece_and_a_mistake_stays_one(tmp_path, processes):
    def wrong(piece, folder):
        if piece.start == 20:
            raise UserError("mistake") if processes else KeyError("bug")
        (folder / "x").write_text("")

    kind, text = (UserError, "^mistake$") if processes else (RuntimeError, "20 to 29: KeyError")
    with pytest.raises(kind, match=text):
        map_pieces(wrong, pieces(40, 10), tmp_path / "map", "squares", Engine(processes=processes))
    left = {path.name for path in (tmp_path / "map").iterdir() if not path.name.startswith(".")}
    assert "000002" not in left and "000000" in left


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ENOSPC, UserError, "cannot be written .No space left"),
        (errno.ECONNRESET, RuntimeError, "squares, records 0 to 4: ConnectionResetError"),
    ],
)
def test_a_full_disk_and_a_source_that_fails_are_told_apart(tmp_path, number, kind, told):
    def fails(piece, folder):
        raise OSError(number, os.strerror(number))

    with pytest.raises(kind, match=told):
        map_pieces(fails, pieces(5), tmp_path / "map", "squares", HERE)
    assert os.listdir(tmp_path / "map") == []


def test_drafts_of_the_dead_go(tmp_path):
    draft = tmp_path / "map" / ".draft-0123"
    draft.mkdir(parents=True)
    (draft / "half").write_text("")
    map_pieces(Squares(tmp_path / "log"), pieces(5), tmp_path / "map", "squares", HERE)
    assert os.listdir(tmp_path / "map") == ["000000"]


def test_a_killed_map_goes_on(tmp_path):
    """kill -9 of the process that hands out the pieces: its workers end by themselves."""
    script = """
        import sys, time
        from pathlib import Path
        from ernie_vil2.data.jobs.engine import Engine, map_pieces, pieces
        from tests.data.jobs.test_engine import Squares

        class Slow(Squares):
            def __call__(self, piece, folder):
                super().__call__(piece, folder)
                time.sleep(0.1)

        base = Path(sys.argv[1])
        two = Engine(processes=2)
        map_pieces(Slow(base / "log"), pieces(400, 10), base / "map", "squares", two)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "map").glob("00000[4-9]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    work = Squares(tmp_path / "log")
    finished = len(list((tmp_path / "map").glob("0*")))
    assert 0 < finished < 40
    places = map_pieces(work, pieces(400, 10), tmp_path / "map", "squares", Engine(processes=1))
    assert joined(places) == [number**2 for number in range(400)]
    assert len(work.done()) <= 40 + 2 + 2  # two were at work, and may have ended after that
