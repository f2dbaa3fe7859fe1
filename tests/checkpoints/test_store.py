"""A checkpoint tells when a byte of it is wrong, and what to use instead is found."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import problems_of, verify
from ernie_vil2.checkpoints.writer import CheckpointWriter
from ernie_vil2.config.load import load_config
from ernie_vil2.errors import UserError

FILES = [
    "config.yaml",
    "manifest.json",
    "model.safetensors",
    "state.json",
    "training.safetensors",
    "vocab.txt",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Checkpoints of the steps 1, 2 and 3; the second was the best."""
    tmp_path = tmp_path_factory.mktemp("original")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    writer = CheckpointWriter(
        tmp_path / "checkpoints", load_config("configs/base.yaml"), str(tmp_path / "vocab.txt")
    )
    for step in (1, 2, 3):
        weights = {"w": np.full((3, 4), step, np.float32)}
        writer.save(weights, {"w|moment": np.arange(5.0)}, {"step": step}, best=step == 2)
    writer.close()
    return writer.folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "checkpoints", symlinks=True)


def damage(path, kind):
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[:-2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def test_what_lies_in_a_checkpoint(folder):
    path = folder / "step_00000003"
    assert sorted(p.name for p in path.iterdir()) == FILES
    assert verify(path) == []
    assert store.read_state(path) == {"step": 3}
    entry = json.loads((path / "manifest.json").read_text())["files"]["model.safetensors"]
    assert entry["size"] == (path / "model.safetensors").stat().st_size


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


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_every_byte_counts(folder, name):
    path = folder / "step_00000003" / name
    whole = path.read_bytes()
    for position in range(len(whole) - 1):  # but the line's end
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert problems_of(path.parent, checksums=True), whole[: position + 1]
    path.write_bytes(whole)
    assert verify(path.parent) == []


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


@pytest.mark.parametrize("kind", ["missing", "empty", "cut"])
@pytest.mark.parametrize("name", sorted(set(FILES) - {"manifest.json"}))
def test_one_of_the_first_version(folder, name, kind):
    path = folder / "step_00000003"
    (path / "manifest.json").unlink()
    (path / "state.json").write_text('{"step": 3}')
    assert verify(path) == []
    assert store.read_state(path) == {"step": 3}
    damage(path / name, kind)
    text_cut_off = kind == "cut" and name in ("config.yaml", "vocab.txt")  # cannot be seen
    assert bool(verify(path)) == (not text_cut_off)


def test_shards_that_do_not_belong_together(folder):
    path = folder / "step_00000003"
    (path / "manifest.json").unlink()
    (path / "state.json").write_text('{"step": 3}')
    one = path / "training.safetensors"
    shards = [path / layout.shard_name(rank, 3) for rank in range(3)]
    for shard in shards:
        shutil.copyfile(one, shard)
    assert "are of different runs" not in verify(path)[0]
    one.unlink()
    assert verify(path) == []
    shutil.copyfile(shards[0], path / layout.shard_name(1, 2))
    assert "are of different runs" in verify(path)[0]
    (path / layout.shard_name(1, 2)).unlink()
    shards[1].unlink()
    assert verify(path) == ["training-00002-of-00003.safetensors is missing"]


def test_a_foreign_shard(folder):
    path = folder / "step_00000003"
    shutil.copyfile(path / "training.safetensors", path / layout.shard_name(1, 2))
    assert verify(path)


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
