"""What is LanceDB's own: damage, files of old versions, rows in memory, the index."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta

import numpy as np
import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.search import recall, table
from ernie_vil2.search.collection import EVERYTHING, Filter
from ernie_vil2.search.open import open_collection
from tests.support.collections import DIM, draw, judge, unit

# LanceDB's, of the tests' cleaning up at once
pytestmark = pytest.mark.filterwarnings("ignore:optimize:UserWarning")


@pytest.fixture
def folder(tmp_path):
    """A closed collection of 40 pictures."""
    collection = open_collection(
        str(tmp_path / "pictures.db"), {"weights": "a"}, dim=DIM, write=True
    )
    collection.add(*draw(40))
    collection.close()
    return tmp_path / "pictures.db"


def refusal(path, **options) -> str:
    with pytest.raises(UserError) as error:
        collection = open_collection(str(path), **options)
        try:
            collection.search(unit(np.ones(DIM)), 5)
        finally:
            collection.close()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("write", [False, True])
def test_damage_is_one_line(folder, write):
    notes = folder / "collection.json"
    good = notes.read_text()
    notes.write_text(good.replace('"dim": 16', '"dim": 17'))
    assert "does not match its checksum" in refusal(folder, write=write)
    notes.write_text(good[:50])
    assert "collection.json is damaged" in refusal(folder, write=write)
    notes.write_text(good)
    data = next((folder / "pictures.lance" / "data").iterdir())
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    assert "it is damaged" in refusal(folder, write=write)
    data.unlink()
    assert "it is damaged" in refusal(folder, write=write)
    shutil.rmtree(folder / "pictures.lance")
    assert "it is damaged" in refusal(folder, write=write)


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.jpg").touch()
    (tmp_path / "file").touch()
    for write in (False, True):
        options = {"write": write, "dim": DIM}
        assert "a folder without a collection" in refusal(tmp_path / "others", **options)
        assert "is a file" in refusal(tmp_path / "file", **options)
        assert "expected a folder, or http" in refusal("s3://bucket/x", **options)
    assert "there is no such collection" in refusal(tmp_path / "nothing", dim=DIM)
    assert os.listdir(tmp_path / "others") == ["a.jpg"]
    assert not (tmp_path / "nothing").exists()


def test_what_a_killed_maker_left_is_no_obstacle(folder):
    (folder / "collection.json").rename(folder / ".collection.json")
    assert "without a collection" in refusal(folder)
    collection = open_collection(str(folder), dim=DIM, write=True)
    assert collection.count() == 0
    collection.add(*draw(3))
    assert collection.count() == 3


def test_the_disk_does_not_grow_with_changes(folder, monkeypatch):
    monkeypatch.setattr(table, "_KEEP", timedelta(0))
    monkeypatch.setattr(table, "_FRAGMENTS", 20)  # adds put things in order by themselves
    collection = open_collection(str(folder), write=True)
    pictures, vectors = draw(40)

    def disk() -> tuple[int, int]:
        files = [x for x in (folder / "pictures.lance").rglob("*") if x.is_file()]
        return len(files), sum(x.stat().st_size for x in files)

    most = []
    for _ in range(3):
        for i in range(40):
            collection.add(pictures[i : i + 1], vectors[i : i + 1])
        collection.optimize()
        most.append(disk())
    assert all(files < 80 for files, _ in most), most  # each add makes three
    assert most[2][1] < 2 * most[0][1]
    judge(collection.search(vectors[3], 40), pictures, vectors, vectors[3], 40, EVERYTHING)


def test_files_are_kept_for_those_who_go_through_them(folder, monkeypatch):
    monkeypatch.setattr(table, "_KEEP", timedelta(0))
    collection, reader = open_collection(str(folder), write=True), open_collection(str(folder))
    iteration = reader.pictures()
    pictures, vectors = draw(40)
    for i in range(20):
        collection.add(pictures[i : i + 1], vectors[i : i + 1])
    old = set((folder / "pictures.lance" / "data").iterdir())
    collection.optimize()
    assert old <= set((folder / "pictures.lance" / "data").iterdir())
    assert len(list(iteration)) == 40


def test_a_reader_follows_every_kind_of_change(folder, monkeypatch):
    """Its rows in memory, by the store's own words, after each."""
    monkeypatch.setattr(table, "_FEW_CHANGES", 0)
    writer, reader = open_collection(str(folder), write=True), open_collection(str(folder))
    pictures, vectors = draw(40)
    there = dict(zip((x.id for x in pictures), zip(pictures, vectors)))

    def check() -> None:
        kept = list(there.values())
        query = unit(np.arange(1, DIM + 1))
        for where in (EVERYTHING, Filter(folder="/a"), Filter(tags=("a",))):
            found = reader.search(query, 1000, where)
            judge(found, [p for p, _ in kept], [v for _, v in kept], query, 1000, where)

    check()
    for step in range(6):
        more, of_more = draw(15, seed=1 + step % 4)  # some come again
        writer.add(more, of_more)
        there.update(zip((x.id for x in more), zip(more, of_more)))
        check()
        gone = list(there)[:: step + 2]
        writer.delete(gone)
        for id in gone:
            del there[id]
        check()
        if step % 2:
            writer.optimize()
            check()


def test_a_reader_follows_to_a_collection_made_anew(folder, tmp_path):
    """As --rebuild exchanges the folders; the numbers of the versions are the same."""
    reader = open_collection(str(folder))
    pictures, vectors = draw(40, seed=5)
    assert reader.search(vectors[1], 1)[0].picture != pictures[1]
    for model in ("a", "b"):
        other = tmp_path / f"other {model}"
        collection = open_collection(str(other), {"weights": model}, dim=DIM, write=True)
        collection.add(pictures, vectors)
        collection.close()
        held = open_collection(str(folder), {"weights": "a"})
        folder.rename(tmp_path / f"old {model}")
        other.rename(folder)
        found = reader.search(vectors[2], 40)
        judge(found, pictures, vectors, vectors[2], 40, EVERYTHING)
        if model == "b":
            with pytest.raises(UserError, match=r"another model \(weights b\)"):
                held.search(vectors[2], 1)


def test_the_index_is_measured_and_finds_what_it_says(tmp_path, monkeypatch):
    """8,000 vectors in clusters, 5,000 of them indexed: recall@10 by float64 is what was measured,
    and under a filter, or for long lists, it is 1."""
    monkeypatch.setattr(recall, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(recall, "_FIRST", 1)
    monkeypatch.setattr("ernie_vil2.search.ivf._CELL", 50)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal([60, DIM])
    pictures, _ = draw(8000)
    vectors = unit(centres[rng.integers(0, 60, 8000)] + 0.5 * rng.standard_normal([8000, DIM]))
    collection = open_collection(str(tmp_path / "pictures.db"), dim=DIM, write=True)
    collection.add(pictures[:5000], vectors[:5000])
    found = collection.optimize()
    assert (found["index"], found["rows"]) == ("IVF_FLAT", 5000)
    # of 100; if one were enough, most vectors would lie in it
    assert found["recall"] >= 0.99 and 1 < found["cells"] <= 50
    assert collection.notes["index"] == found
    collection.add(pictures[5000:], vectors[5000:])

    hits = 0
    for query in vectors[::200]:
        exact = np.sort(vectors.astype("float64") @ query.astype("float64"))[-10]
        hits += sum(hit.cosine >= exact - 1e-6 for hit in collection.search(query, 10))
    assert hits / 400 >= 0.98
    where, query = Filter(folder="/a"), unit(centres[0] + centres[1])
    judge(collection.search(query, 50, where), pictures, vectors, query, 50, where)
    judge(collection.search(query, 2000), pictures, vectors, query, 2000, EVERYTHING)
