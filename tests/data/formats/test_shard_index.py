"""The index of shards: made once, renewed when a shard changes, or taken from who wrote them."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.data.files.local import LocalFiles
from ernie_vil2.data.formats import shard_index
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from tests.support.rows import bad
from tests.support.tars import header_at, pair, patch, write_tar

FORK = multiprocessing.get_context("fork")


def write_shards(folder: Path, *lengths: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [
        write_tar(
            folder / f"{shard}.tar", *(m for n in range(length) for m in pair(f"{shard}-{n}", n))
        )
        for shard, length in enumerate(lengths)
    ]


def keys(reader) -> list[str]:
    return [record.source.rpartition(":")[2] for record in reader]


def indexes(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob(".*.index")}


class Counted(LocalFiles):
    """Local files that write down who opens which, in a file that processes share."""

    def __init__(self, paths, log: Path, deadly: bool = False):
        super().__init__(paths)
        self.log, self.deadly = log, deadly

    def open(self, number: int):
        with open(self.log, "a") as log:
            log.write(f"{number}\n")
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(number)


def found(files: LocalFiles) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in shard_index.shard_index(files).items()}


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_index_is_used_again_and_renewed_when_a_shard_changes(tmp_path):
    paths = write_shards(tmp_path, 2, 0, 3)
    expected = ["0-0", "0-1", "2-0", "2-1", "2-2"]
    assert keys(build_reader("shards", path=str(tmp_path / "*.tar"))) == expected
    ((place, built),) = indexes(tmp_path).items()
    assert keys(build_reader("shards", path=str(tmp_path / "*.tar"))) == expected
    assert indexes(tmp_path) == {place: built}
    size = os.path.getsize(paths[2])
    write_tar(Path(paths[2]), *pair("new"))
    assert os.path.getsize(paths[2]) == size  # tars are padded, so that this is not rare
    assert keys(build_reader("shards", path=str(tmp_path / "*.tar"))) == ["0-0", "0-1", "new"]
    place.write_bytes(place.read_bytes()[:-8])
    assert keys(build_reader("shards", path=str(tmp_path / "*.tar"))) == ["0-0", "0-1", "new"]
    assert len(build_reader("shards", path=paths[:1])) == 2  # another set


def test_what_the_writer_of_shards_says_of_them_is_believed(tmp_path):
    folder = tmp_path / "set"
    paths = write_shards(folder, 2, 0, 3)
    shard_index.write_prepared(paths, str(folder))
    alone = shard_index.shard_index(LocalFiles(paths))
    (place,) = indexes(folder)
    place.unlink()
    patch(paths[2], header_at(paths[2], "2-1.png") + 150, b"9")  # which a scan would find
    reader = build_reader("shards", path=str(folder / "*.tar"))
    assert same(shard_index.shard_index(LocalFiles(paths)), alone)
    assert "not the one that was indexed" in bad(reader, 3).reason
    assert reader[2].captions == ("text 0",) and reader[4].captions == ("text 2",)
    # another order, a part of them, and one that it does not know
    other = write_tar(folder / "1.tar", *(m for n in range(9) for m in pair(f"big{n}" * 40, n)))
    reader = build_reader("shards", path=[paths[2], other, paths[0]])
    assert len(reader) == 3 + 9 + 2
    assert [reader[n].captions[0] for n in (0, 2, 3, 11, 12)] == [
        f"text {n}" for n in (0, 2, 0, 8, 0)
    ]
    (folder / shard_index.PREPARED).write_bytes(b"x" * 5000)
    assert "no tar header" in bad(build_reader("shards", path=[paths[2]]), 1).reason


def test_faults_are_prepared_too(tmp_path):
    (path,) = write_shards(tmp_path, 4)
    patch(path, header_at(path, "0-2.png") + 150, b"9")
    once = build_reader("shards", path=path)
    shard_index.write_prepared([path], str(tmp_path))
    twice = build_reader("shards", path=[path, path])
    for reader, positions in ((once, [2]), (twice, [2, 6])):
        for position in range(len(reader)):
            if position in positions:
                assert "no tar header" in bad(reader, position).reason
            else:
                assert reader[position].captions == (f"text {position % 4}",)


def test_processes_scan_as_one_does(tmp_path, monkeypatch, logged):
    paths = write_shards(tmp_path, 5, 0, 1, 40, 2)
    patch(paths[3], header_at(paths[3], "3-7.png") + 150, b"9")
    alone = shard_index.shard_index(LocalFiles(paths))
    (place,) = indexes(tmp_path)
    place.unlink()
    logged.set_level("INFO", "ernie_vil2")
    monkeypatch.setattr(shard_index, "_IN_PARALLEL", 0)
    monkeypatch.setattr(shard_index, "usable_cores", lambda: 3)
    assert same(shard_index.shard_index(LocalFiles(paths)), alone)
    assert "5 shards" in logged.text and "by 3 processes" in logged.text
    place.unlink()
    os.unlink(paths[4])
    with pytest.raises(UserError, match=r"cannot read .*4\.tar"):
        shard_index.shard_index(LocalFiles(paths))


def test_one_process_makes_it_and_the_others_wait(tmp_path):
    paths = write_shards(tmp_path / "set", 3, 3, 3)
    log = tmp_path / "opened"
    files = Counted(paths, log)
    with FORK.Pool(4) as pool:
        results = pool.map(found, [files] * 8, chunksize=1)
    assert all(same(arrays, results[0]) for arrays in results)
    assert sorted(log.read_text().split()) == ["0", "1", "2"]
    assert {p.suffix for p in (tmp_path / "set").iterdir()} == {".tar", ".index"}


def test_a_maker_that_is_killed_is_followed_by_another(tmp_path):
    paths = write_shards(tmp_path / "set", 3)
    log = tmp_path / "opened"
    deadly = FORK.Process(target=shard_index.shard_index, args=[Counted(paths, log, deadly=True)])
    deadly.start()
    deadly.join()
    assert deadly.exitcode == -9
    left = {p.suffix for p in (tmp_path / "set").iterdir()}
    assert left == {".tar", ".lock", ".draft"}
    assert len(shard_index.shard_index(Counted(paths, log))["ends"]) == 1
    assert log.read_text().split() == ["0", "0"]
    assert not list((tmp_path / "set").glob(".*.lock"))


def test_index_goes_to_the_cache_folder_where_the_shards_cannot_hold_it(tmp_path, monkeypatch):
    paths = write_shards(tmp_path / "set", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    shard_index.shard_index(LocalFiles(paths))
    (place,) = indexes(tmp_path / "set")
    place.unlink()
    place.mkdir()  # even root cannot put a file in its place
    assert keys(build_reader("shards", path=paths)) == ["0-0", "0-1"]
    assert len(indexes(tmp_path / "home")) == 1
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [place.name, "0.tar"]


def test_every_record_of_many_shards_is_found(tmp_path):
    lengths = [0, 3, 0, 0, 1, 17, 2, 0]
    paths = write_shards(tmp_path, *lengths)
    patch(paths[5], header_at(paths[5], "5-3.txt") + 150, b"9")
    expected = [f"{shard}-{n}" for shard, length in enumerate(lengths) for n in range(length)]
    reader = build_reader("shards", path=str(tmp_path / "*.tar"))
    seen = []
    for position in range(len(reader)):
        try:
            seen.append(keys([reader[position]])[0])
        except BadRecord as error:
            seen.append(error.source.rpartition(":")[2])
            assert seen[-1] == "5-3"
    assert seen == expected
