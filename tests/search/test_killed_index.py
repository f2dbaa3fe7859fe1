"""An index that is killed anywhere: what it kept is there, and the next run ends the same."""

import os
import random
import shutil

import pytest

from ernie_vil2.search.bad import BadPictures
from tests.support.indexes import content, write_pictures
from tests.support.killed_index import Kill, Runs

pytestmark = pytest.mark.slow

KILLS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def changed_folder(tmp_path_factory, runs, tiny_artefact):
    """A folder, an index of what was in it before, and what was kept of that."""
    base = tmp_path_factory.mktemp("base")
    folder, db = base / "folder", base / "before.db"
    paths = write_pictures(folder, 24)
    ended = runs(tiny_artefact, folder, "--db", db)
    assert ended.code == 0, ended.log
    before = content(db)
    assert len(before) == 24
    write_pictures(folder, 40, seed=1)  # new
    for path in paths[:4]:  # changed
        path.write_bytes(path.read_bytes() + b"\0")
    for path in paths[4:8]:  # moved
        os.rename(path, path.with_name(f"moved {path.name}"))
    os.rename(paths[8], folder / "aside")  # exchanged
    os.rename(paths[9], paths[8])
    os.rename(folder / "aside", paths[9])
    for path in paths[10:13]:  # deleted
        path.unlink()
    os.utime(paths[13])
    paths[14].write_bytes(b"no picture any more")
    (folder / "cut.png").write_bytes(paths[15].read_bytes()[:60])
    return folder, db, before


def rows(db):
    """What an index has, by path, and its bad pictures, in any order."""
    bad = BadPictures(db / "bad.jsonl")
    return content(db), sorted(bad._lines)


def test_killed_in_twenty_places(changed_folder, runs, tiny_artefact, tmp_path):
    folder, base, earlier = changed_folder
    undisturbed = tmp_path / "undisturbed.db"
    shutil.copytree(base, undisturbed)
    ended = runs(tiny_artefact, folder, "--db", undisturbed)
    assert ended.code == 0, ended.log
    expected = rows(undisturbed)
    assert len(expected[0]) == 24 + 40 - 3 - 1 and len(expected[1]) == 2
    stay = {x.sha256 for x, _ in expected[0].values()}
    moved = {x.sha256 for path, (x, _) in earlier.items() if path not in expected[0]} & stay
    assert len(moved) == 4
    calls = ended.calls
    assert {"add", "delete", "note", "optimize", "_sync", "vectors", "keep", "fsync"} <= set(calls)
    assert len(ended.added) == 40 + 4 + 4 + 2 + 1

    rng = random.Random(12)
    killed, acknowledged = 0, 0
    for number, call in enumerate(sorted(rng.sample(range(1, len(calls) + 1), KILLS // 2))):
        db = tmp_path / f"{number}.db"
        shutil.copytree(base, db)
        # before a call, and the next run in the middle of whatever it does
        for kill in (Kill(call), Kill(rng.randint(1, 40), rng.uniform(0.002, 0.1))):
            before = content(db)
            ended = runs(tiny_artefact, folder, "--db", db, kill=kill)
            assert ended.code in (-9, 0), ended.log
            killed += ended.code == -9
            found = content(db)
            for path, (picture, vector) in found.items():  # each as it was, or as it is to be
                assert (picture, vector) in (before.get(path), expected[0].get(path)), (kill, path)
            assert {x.sha256 for x, _ in found.values()} >= moved  # their vectors are somewhere
            acknowledged += len(ended.added)
            assert ended.added <= {(path, x.sha256) for path, (x, _) in found.items()}, kill
        ended = runs(tiny_artefact, folder, "--db", db)
        assert ended.code == 0, ended.log
        assert rows(db) == expected, kill
        shutil.rmtree(db)
    assert killed >= KILLS - 3  # the last ones may have come to their end
    assert acknowledged > 8 * KILLS


def test_rebuild_leaves_the_old_one_or_the_new_one(changed_folder, runs, tiny_artefact, tmp_path):
    _, base, before = changed_folder
    undisturbed = tmp_path / "undisturbed.db"
    shutil.copytree(base, undisturbed)
    ended = runs(tiny_artefact, "--db", undisturbed, "--rebuild")
    assert ended.code == 0, ended.log
    expected = rows(undisturbed)
    assert not undisturbed.with_name(".undisturbed.db.rebuild").exists()
    for name, number, is_new in (
        ("add", 3, False),
        ("optimize", 1, False),
        ("exchange", 1, False),
        ("rmtree", 2, True),  # the first makes room for the draft
    ):
        db = tmp_path / f"{name}.db"
        shutil.copytree(base, db)
        ended = runs(tiny_artefact, "--db", db, "--rebuild", kill=Kill(number, name=name))
        assert ended.code == -9, ended.log
        assert rows(db) == (expected if is_new else (before, [])), name
        again = runs(tiny_artefact, "--db", db, "--rebuild")
        assert again.code == 0, again.log
        assert rows(db) == expected
        assert [path.name for path in tmp_path.glob(f".{db.name}*")] == []
        if name == "optimize":  # all was done: the next goes on with that
            assert "60 pictures: 0 new" in again.log
