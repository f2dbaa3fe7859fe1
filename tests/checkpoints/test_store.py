"""What to resume from is found, and what an earlier run left is put in order."""

import shutil
from pathlib import Path

import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import verify
from ernie_vil2.errors import UserError
from tests.support.checkpoints import FILES, damage


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "flipped"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_reported_and_the_one_before_used(folder, name, kind, logged):
    damage(folder / "step_00000003" / name, kind)
    assert store.find_latest(folder) == folder / "step_00000002"
    (warning,) = logged.messages
    assert "step_00000003 is damaged" in warning and name in warning and "\n" not in warning
    for given in (folder / "step_00000003", folder / "latest"):
        with pytest.raises(UserError) as raised:
            store.check(given)
        message = str(raised.value)
        assert name in message and "step_00000002 is good" in message and "\n" not in message
    store.check(folder / "step_00000002")


def test_nothing_good_is_left(folder, logged):
    for path in layout.checkpoints(folder):
        damage(path / "model.safetensors", "cut")
    assert store.find_latest(folder) is None
    assert len(logged.messages) == 3
    with pytest.raises(UserError, match=r"Global\.pretrained"):
        store.check(folder / "latest")


def test_a_folder_that_is_no_checkpoint(folder, tmp_path):
    for given in (folder, tmp_path, folder / "step_00000009"):
        with pytest.raises(UserError, match="step_00000003 is good"):
            store.check(given)
    with pytest.raises(UserError, match=r"state\.json is missing"):
        store.read_state(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        store.read_state(tmp_path)


def test_put_aside(folder):
    assert store.put_aside(folder).name == "checkpoints.1"
    assert store.put_aside(folder) is None
    (folder / "step_00000001").mkdir(parents=True)  # even if nothing is in it
    assert store.put_aside(folder).name == "checkpoints.2"


def test_going_back_leaves_the_later_ones_aside(folder):
    assert store.put_aside(folder, after=3) is None
    aside = store.put_aside(folder, after=1)
    assert sorted(path.name for path in aside.iterdir()) == ["step_00000002", "step_00000003"]
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_00000001"]
    assert (folder / "latest").resolve().name == "step_00000001"


def test_links_are_brought_up_to_date(folder):
    (folder / "best").unlink()
    store.point(folder / "latest", folder / "step_00000001")
    store.tidy(folder, [])
    assert (folder / "latest").resolve().name == "step_00000003"
    assert (folder / "best").resolve().name == "step_00000002"
    store.amend(folder / "step_00000003", {"step": 3, "best": 0.5}, best=True)
    store.point(folder / "best", folder / "step_00000002")  # as if killed before this
    store.tidy(folder, [])
    assert (folder / "best").resolve().name == "step_00000003"
    assert store.read_state(folder / "best") == {"step": 3, "best": 0.5}


def test_a_copy_that_followed_the_links(folder, tmp_path):
    """As `cp -rL`, `scp -r` and object stores make it."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert (copy / "latest").is_dir() and not (copy / "latest").is_symlink()
    store.tidy(copy, [])
    assert (copy / "latest").readlink() == Path("step_00000003")
    assert (copy / "best").readlink() == Path("step_00000002")
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_copy_without_the_original_takes_its_place(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "step_00000003")
    shutil.rmtree(copy / "best")
    (copy / "best").write_text("step_00000002")  # what knows no links may write
    store.tidy(copy, [])
    assert (copy / "latest").readlink() == Path("step_00000003")
    assert verify(copy / "step_00000003") == []
    assert (copy / "best").readlink() == Path("step_00000002")


def test_a_damaged_copy_is_kept_beside(folder, tmp_path, logged):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "latest" / "vocab.txt").unlink()
    store.tidy(copy, [])
    assert (copy / "latest").readlink() == Path("step_00000003")
    (aside,) = copy.glob("latest.damaged-*")
    assert f"{aside} is damaged (vocab.txt is missing)" in logged.text
