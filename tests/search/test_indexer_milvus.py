"""An index in Milvus has what one in a folder has."""

import os
import shutil

import pytest

from ernie_vil2.artefact.folder import Artefact
from tests.support.indexes import Index, counts, write_pictures


@pytest.mark.slow
def test_an_index_in_milvus_is_that_in_a_folder(
    index, folder, milvus, tiny_artefact, tiny_tower, tmp_path
):
    artefact = Artefact.open(tiny_artefact)
    there = Index(milvus.uri("indexed"), artefact, tiny_tower, tmp_path / "bad.jsonl")
    paths = write_pictures(folder, 20)
    (folder / "cut.png").write_bytes(paths[0].read_bytes()[:60])
    for each in (index, there):
        assert counts(each.update(folder)) == {"there": 20, "new": 20, "bad": 1}
    assert there.content() == index.content()
    os.rename(paths[1], folder / "moved.png")
    shutil.copyfile(paths[2], paths[3])
    os.utime(paths[4])
    paths[5].unlink()
    write_pictures(folder, 3, seed=1)
    for each in (index, there):
        summary = counts(each.update(folder))
        assert summary == {
            "there": 22,
            "new": 3,
            "changed": 1,
            "moved": 1,
            "deleted": 1,
            "bad": 1,
        }
        assert each.embedded == 23
    assert there.content() == index.content()
    assert counts(there.update(folder)) == {"there": 22, "bad": 1}
