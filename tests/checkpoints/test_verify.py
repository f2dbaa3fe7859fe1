"""A checkpoint tells when a byte of it is wrong."""

import json
import shutil

import pytest

from ernie_vil2.checkpoints import layout, store
from ernie_vil2.checkpoints.verify import problems_of, verify
from tests.support.checkpoints import FILES, damage


def test_what_lies_in_a_checkpoint(folder):
    path = folder / "step_00000003"
    assert sorted(p.name for p in path.iterdir()) == FILES
    assert verify(path) == []
    assert store.read_state(path) == {"step": 3}
    entry = json.loads((path / "manifest.json").read_text())["files"]["model.safetensors"]
    assert entry["size"] == (path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_every_byte_counts(folder, name):
    path = folder / "step_00000003" / name
    whole = path.read_bytes()
    for position in range(len(whole) - 1):  # but the line's end
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert problems_of(path.parent, checksums=True), whole[: position + 1]
    path.write_bytes(whole)
    assert verify(path.parent) == []


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
