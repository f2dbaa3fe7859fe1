"""An index after its folder changed: the same as one that was made of it anew."""

import contextlib
import json
import os
import shutil

import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.search import walk as walking
from ernie_vil2.search.changes import FolderGone
from ernie_vil2.search.lance import LanceCollection
from ernie_vil2.search.open import open_collection
from ernie_vil2.search.progress import NOTE
from tests.support.indexes import anew, counts, write_pictures


def test_again_nothing_is_read(index, folder, monkeypatch):
    write_pictures(folder, 10)
    index.update(folder)
    before = index.content()
    monkeypatch.setattr("ernie_vil2.search.load.read", None)  # calling it fails
    assert counts(index.update(folder)) == {"there": 10}
    assert (index.embedded, index.content()) == (10, before)


def test_a_file_whose_time_alone_changed_is_not_embedded(index, folder):
    path, *_ = write_pictures(folder, 5)
    index.update(folder)
    os.utime(path, ns=(1, 2))
    assert counts(index.update(folder)) == {"there": 5}
    assert index.embedded == 5
    assert index.content()[str(path)][0].mtime_ns == 2
    assert index.content() == anew(index, folder)
    assert index.update(folder).looked_at == 0


def test_new_changed_moved_copied_swapped_and_deleted(index, folder):
    paths = write_pictures(folder, 12)
    index.update(folder)
    shutil.copyfile(paths[0], paths[1])  # changed, to the bytes of another
    (folder / "new").mkdir()
    os.rename(paths[2], folder / "new/moved.png")
    shutil.copy2(paths[3], folder / "copied.png")
    os.rename(paths[4], folder / "aside")
    os.rename(paths[5], paths[4])
    os.rename(folder / "aside", paths[5])
    paths[6].unlink()
    write_pictures(folder, 2, seed=1)
    summary = index.update(folder)
    assert counts(summary) == {"there": 14, "new": 3, "changed": 3, "moved": 1, "deleted": 1}
    assert index.embedded <= 12 + 4  # the new ones, and what exchanged names
    assert index.content() == anew(index, folder)
    assert counts(index.update(folder)) == {"there": 14}


def test_a_source_that_changes_itself_gives_no_vector(index, folder):
    one, other = write_pictures(folder, 2)
    index.update(folder)
    (folder / "zzz").mkdir()
    shutil.copyfile(one, folder / "zzz/copy.png")  # read after `one` has other bytes
    one.write_bytes(other.read_bytes() + b"\0")
    index.update(folder)
    assert index.content() == anew(index, folder)


def test_files_of_the_same_bytes_are_embedded_once(index, folder):
    (path,) = write_pictures(folder, 1)
    for number in range(60):
        shutil.copyfile(path, folder / f"copy{number:02d}.png")
    summary = index.update(folder)
    assert counts(summary) == {"there": 61, "new": 61}
    assert index.embedded < 4  # of batches that were begun before the first was kept
    assert len({vector for _, vector in index.content().values()}) == 1
    assert {(p.width, p.dhash) for p, _ in index.content().values()} == {
        (40, index.content()[str(path)][0].dhash)
    }


def test_several_folders_and_moves_between_them(index, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    paths = write_pictures(one, 6)
    write_pictures(other, 3, seed=1)
    index.update(one)
    index.update(other)
    assert len(index.content()) == 9
    os.rename(paths[0], other / "moved.png")
    summary = index.update(one, other)
    assert counts(summary) == {"there": 9, "moved": 1}
    assert index.embedded == 9
    shutil.rmtree(one)
    one.mkdir()
    assert counts(index.update(one, allow_empty=True)) == {"deleted": 5}
    assert index.content() == anew(index, other)


def test_a_folder_beside_whose_name_begins_the_same_is_not_touched(index, tmp_path):
    write_pictures(tmp_path / "a", 3)
    write_pictures(tmp_path / "a b", 3, seed=1)
    index.update(tmp_path / "a", tmp_path / "a b")
    next((tmp_path / "a").rglob("*.png")).unlink()
    index.update(tmp_path / "a")
    assert len(index.content()) == 5


def test_what_is_excluded_now_goes(index, folder):
    write_pictures(folder, 9)
    index.update(folder)
    assert counts(index.update(folder, exclude=["海边"])) == {"there": 6, "deleted": 3}


# -- What is not there -----------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["empty", "missing", "a file"])
def test_a_disk_that_is_not_mounted_empties_nothing(index, folder, gone):
    write_pictures(folder, 4)
    index.update(folder)
    before = index.content()
    shutil.rmtree(folder)
    if gone == "empty":
        folder.mkdir()
    if gone == "a file":
        folder.touch()
    with pytest.raises(FolderGone, match=r"has 4 of its pictures.*mounted\? --allow-empty"):
        index.update(folder)
    assert index.content() == before
    assert counts(index.update(folder, allow_empty=True)) == {"deleted": 4}
    assert index.content() == {}


def test_a_folder_that_never_was(index, tmp_path):
    with pytest.raises(UserError, match="is no folder: name one"):
        index.update(tmp_path / "typo")


def test_a_folder_that_cannot_be_listed_itself(index, folder, monkeypatch):
    write_pictures(folder, 3)
    index.update(folder)

    def failing(path):
        raise OSError(116, "Stale file handle", path)

    monkeypatch.setattr(walking, "_listed", failing)
    with pytest.raises(FolderGone, match=r"cannot be listed \(Stale file handle\)"):
        index.update(folder, allow_empty=True)
    assert len(index.content()) == 3


def test_below_a_folder_that_cannot_be_listed_all_stays(index, folder, monkeypatch):
    write_pictures(folder, 9)
    index.update(folder)
    before, listed = index.content(), walking._listed

    def failing(path):
        if path.endswith("海边"):
            raise OSError(5, "Input/output error")
        return listed(path)

    monkeypatch.setattr(walking, "_listed", failing)
    assert counts(index.update(folder)) == {"there": 9, "bad": 1}
    assert index.content() == before
    (line,) = (json.loads(x) for x in index.bad.path.read_text().splitlines())
    assert (line["source"], line["reason"]) == (str(folder / "海边"), "Input/output error")
    monkeypatch.undo()
    assert counts(index.update(folder)) == {"there": 9}
    assert not index.bad.path.exists()


# -- Progress and failures -------------------------------------------------------------------------


def test_progress_is_noted_and_forgotten(index, folder, monkeypatch):
    monkeypatch.setattr("ernie_vil2.search.writer.NOTE_SECONDS", 0.0)
    monkeypatch.setattr("ernie_vil2.search.writer._LOOK", 0.01)
    write_pictures(folder, 40)
    noted, note = [], LanceCollection.note

    def noting(self, **values):
        note(self, **values)
        with contextlib.closing(open_collection(str(index.db))) as reader:  # as the page does
            noted.append(dict(reader.notes).get(NOTE))

    monkeypatch.setattr(LanceCollection, "note", noting)
    index.update(folder)
    *seen, last = noted
    assert last is None and seen
    assert all(x["total"] == 40 and x["pid"] == os.getpid() for x in seen)
    assert [x["done"] for x in seen] == sorted(x["done"] for x in seen)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_added_before_an_error_stays(index, folder, monkeypatch, error):
    monkeypatch.setattr("ernie_vil2.search.writer.EVERY_PICTURES", 8)
    write_pictures(folder, 48)
    with index.opened(folder) as (indexer, collection):
        add, calls = collection.add, []

        def failing(pictures, vectors):
            calls.append(len(pictures))
            if len(calls) == 3:
                raise error
            add(pictures, vectors)

        monkeypatch.setattr(collection, "add", failing)
        with pytest.raises(type(error)):
            indexer.update()
        assert NOTE not in collection.notes
    assert len(index.content()) == sum(calls[:2])
    index.update(folder)
    assert index.content() == anew(index, folder)


def test_ctrl_c_keeps_what_is_done(index, folder):
    write_pictures(folder, 48)
    with index.opened(folder) as (indexer, _):
        embed = indexer._embedder._load()
        calls = []

        def interrupted(rows):
            calls.append(len(rows))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return embed(rows)

        indexer._embedder._load = lambda: interrupted
        with pytest.raises(KeyboardInterrupt):
            indexer.update()
    assert len(index.content()) == sum(calls[:2])
