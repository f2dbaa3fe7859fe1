"""The index of a file's rows: built once, renewed when the file changes, never half there."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.paths import ROOT
from tests.support.rows import bad, write

FORK = multiprocessing.get_context("fork")


def indexes(folder: Path) -> dict:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.index")}


def test_index_is_used_again_and_renewed_when_the_file_changes(tmp_path):
    path = write(tmp_path / "a.tsv", b"one\tid\tAAAA")
    build_reader("tsv", path=path)
    (place, built), *others = indexes(tmp_path).items()
    assert not others
    assert build_reader("tsv", path=path)[0].captions == ("one",)
    assert indexes(tmp_path) == {place: built}
    write(tmp_path / "a.tsv", b"two\tid\tAAAA", b"three\tid\tAAAA")
    assert [r.captions[0] for r in build_reader("tsv", path=path)] == ["two", "three"]
    whole = place.read_bytes()
    for damaged in (b"", whole[:100], whole[:-8], b"x" * len(whole)):
        place.write_bytes(damaged)
        assert [r.captions[0] for r in build_reader("tsv", path=path)] == ["two", "three"]
        assert place.read_bytes() == whole
    os.utime(path, ns=(1, 1))
    build_reader("tsv", path=path)
    assert place.read_bytes() != whole


def test_a_damaged_index_is_built_again(tmp_path):
    """Any flipped bit of its numbers, though they still look like places."""
    path = write(tmp_path / "a.tsv", b"one\tid\tAAAA", b"two\tid\tAAAA")
    build_reader("tsv", path=path)
    ((place, _),) = indexes(tmp_path).items()
    whole = place.read_bytes()
    for byte in range(4096, len(whole)):
        damaged = bytearray(whole)
        damaged[byte] ^= 1
        place.unlink()  # a new file, as this process trusts what it has seen
        place.write_bytes(damaged)
        assert [r.captions[0] for r in build_reader("tsv", path=path)] == ["one", "two"]
        assert place.read_bytes() == whole


def captions_of(count, width):
    return [b"%0*d\tid\tAAAA" % (width, i) for i in range(count)]


@pytest.mark.parametrize("count", [3, 30_000])
def test_other_content_of_the_same_size_and_time_is_indexed_anew(tmp_path, count):
    path = tmp_path / "a.tsv"
    write(path, *captions_of(count, 9))
    build_reader("tsv", path=str(path))
    stat = path.stat()
    rows = captions_of(count, 9)
    rows = [row + b"A" * 8 for row in rows[: count // 3]] + [row[4:] for row in rows[count // 3 :]]
    content = b"\n".join(rows)
    path.write_bytes(content + b"\n" * (stat.st_size - len(content)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    reader = build_reader("tsv", path=str(path))
    for row in (0, count // 3 - 1):
        assert reader[row].captions == (b"%09d".decode() % row,)
    assert reader[count // 3].captions == (f"{count // 3:05d}",)


def test_no_caption_is_cut_where_content_changed_between_samples(tmp_path):
    path = tmp_path / "a.tsv"
    write(path, *captions_of(30_000, 9))
    build_reader("tsv", path=str(path))
    stat = path.stat()
    with open(path, "r+b") as file:  # a line feed two bytes later, past the first sample
        file.seek(400 * 18)
        file.write(b"%09d\tid\tAAAAAA\n" % 400 + b"%07d\tid\tAAAA\n" % 401)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    reader = build_reader("tsv", path=str(path))
    for row in (400, 401):
        assert "not the one that was indexed" in bad(reader, row).reason
    assert [reader[row].captions for row in (399, 402)] == [("000000399",), ("000000402",)]


BUILDER = """
import os, signal, sys
from ernie_vil2.data.formats import index
def build(write):
    write("x", [1, 2, 3])
    os.kill(os.getpid(), signal.SIGKILL)
index.cached([sys.argv[1]], "lines", build)
"""


def test_a_killed_builder_leaves_nothing_that_is_taken_for_data(tmp_path):
    path = write(tmp_path / "a.tsv", b"one\tid\tAAAA")
    command = [sys.executable, "-c", BUILDER, path]
    assert subprocess.run(command, cwd=ROOT).returncode == -9
    (draft,) = set(tmp_path.iterdir()) - {Path(path)}
    reader = build_reader("tsv", path=str(tmp_path / "*"))
    assert len(reader) == 1 and draft.exists()  # it may still be written, for all one knows
    os.utime(draft, (1, 1))
    for index_file in indexes(tmp_path):
        index_file.unlink()
    assert len(build_reader("tsv", path=str(tmp_path / "*"))) == 1
    assert not draft.exists() and len(list(tmp_path.iterdir())) == 2


def test_index_goes_to_the_cache_folder_where_the_datas_cannot_hold_it(tmp_path, monkeypatch):
    folder, home = tmp_path / "data", tmp_path / "home"
    folder.mkdir()
    path = write(folder / "a.tsv", b"one\tid\tAAAA")
    build_reader("tsv", path=path)
    (place,) = indexes(folder)
    place.unlink()
    place.mkdir()  # even root cannot put a file in its place
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert build_reader("tsv", path=path)[0].captions == ("one",)
    assert len(indexes(home)) == 1 and sorted(folder.iterdir()) == [place, Path(path)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(path) / "no"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        build_reader("tsv", path=path)


def test_concurrent_builders_each_get_a_whole_index(tmp_path):
    rows = [b"text %d\tid\tAAAA" % i for i in range(5000)]
    path = write(tmp_path / "a.tsv", *rows)
    with FORK.Pool(4) as pool:
        results = pool.map(last_caption, [path] * 8, chunksize=1)
    assert results == ["text 4999"] * 8
    assert sorted(p.name for p in tmp_path.iterdir())[1:] == ["a.tsv"]  # the index and the data


def last_caption(path: str) -> str:
    return build_reader("tsv", path=path)[-1].captions[0]
