"""Parquet files with pictures: columns of img2dataset and Hugging Face, row groups, memory."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ernie_vil2.data.formats import parquet
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import bad, png


def write(path, columns: dict, rows_a_group: int = 2, **types) -> str:
    table = pa.table({n: pa.array(v, types.get(n)) for n, v in columns.items()})
    pq.write_table(table, path, row_group_size=rows_a_group)
    return str(path)


def img2dataset(path, first: int, count: int) -> str:
    """A file as its ParquetSampleWriter makes it: a row whose download failed has no picture."""
    numbers = range(first, first + count)
    columns = {
        "url": [f"http://127.0.0.1/{n}.jpg" for n in numbers],
        "caption": [f"caption {n}" for n in numbers],
        "key": [f"{n:09d}" for n in numbers],
        "status": ["success"] * (count - 1) + ["failed_to_download"],
        "width": [7] * count,
        "jpg": [png(n) for n in numbers[:-1]] + [None],
    }
    return write(path, columns, jpg=pa.binary())


def test_img2dataset(tmp_path):
    paths = [img2dataset(tmp_path / f"{n:05d}.parquet", 5 * n, 5) for n in range(2)]
    (tmp_path / "files.txt").write_text("# all\n0000*.parquet\n")
    written = "*.parquet", "0000{0..1}.parquet", "", "files.txt"
    for path in (*(str(tmp_path / name) for name in written), paths, tmp_path):
        reader = build_reader("parquet", path=path)
        assert len(reader) == 10
        for place in (7, 0, 3, 8, -10):
            number = place % 10
            record = reader[place]
            assert (record.image, record.captions) == (png(number), (f"caption {number}",))
            assert (record.id, record.tags) == (f"{number:09d}", ())
            assert record.source == f"{paths[number // 5]}:{number % 5 + 1}"
        error = bad(reader, 9)
        assert error.source == f"{paths[1]}:5" and error.reason == '"jpg" is missing'


def test_hugging_faces_pictures_and_lists_of_captions(tmp_path):
    pictures = [{"bytes": png(n), "path": f"{n}.jpg"} for n in range(3)]
    columns = {
        "image": pictures,
        "caption": [["eins", "one"], [], ["drei"]],
        "sentids": [[1, 2], [3], [4]],
        "img_id": [10, 11, 12],
        "tags": ["cat | dog", None, ""],
    }
    reader = build_reader("parquet", path=write(tmp_path / "a.parquet", columns))
    assert [reader[n].image for n in (0, 2)] == [png(0), png(2)]
    assert reader[0].captions == ("eins", "one") and reader[2].captions == ("drei",)
    assert (reader[0].id, reader[0].tags, reader[2].tags) == ("10", ("cat", "dog"), ())
    assert "no caption" in bad(reader, 1).reason
    distractor = reader.evaluation()[1]
    assert (distractor.image, distractor.captions) == (png(1), ())
    assert bad(reader, 1)  # for training still


def test_columns_that_the_user_names(tmp_path):
    columns = {
        "photo": [png(1), png(2)],
        "alt": ["first", None],
        "synthetic": [["a", "b"], ["c"]],
        "labels": [["x"], []],
        "image": ["1.jpg", "2.jpg"],  # of no type for a picture
    }
    path = write(tmp_path / "a.parquet", columns, photo=pa.large_binary())
    names = {"image": "photo", "caption": ["alt", "synthetic"], "tags": "labels", "id": "image"}
    reader = build_reader("parquet", path=path, **names)
    assert reader[0].captions == ("first", "a", "b") and reader[1].captions == ("c",)
    assert (reader[0].tags, reader[1].tags, reader[1].id) == (("x",), (), "2.jpg")
    assert reader[0].texts == {"alt": ("first",), "synthetic": ("a", "b")}
    assert reader[1].texts == {"synthetic": ("c",)}
    assert reader.texts(0) == ("first", "a", "b", "x")
    without = build_reader("parquet", path=path, image="photo", caption="alt")
    assert without[0].id == f"{path}:1"  # each row is a picture of its own
    assert '"alt": no caption' in bad(without, 1).reason


def test_rows_that_are_no_records(tmp_path):
    wrong = [
        ({"image": {"bytes": None, "path": "a.jpg"}}, '"image" is missing but for a path, a.jpg'),
        ({"image": None}, '"image" is missing'),
        ({"image": {"bytes": b"", "path": None}}, '"image" is empty'),
        ({"text": None}, '"text": no caption'),
        ({"text": "  "}, '"text" is empty'),
        ({"text": "a\0b"}, "NUL"),
        ({"id": None}, '"id" is missing'),
        ({"id": ""}, '"id" is empty'),
        ({"tags": ["x", None]}, '"tags" is missing'),
    ]
    good = {"image": {"bytes": png(1), "path": None}, "text": "ok", "id": "7", "tags": ["x"]}
    rows = [good, *({**good, **row} for row, _ in wrong)]
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    reader = build_reader("parquet", path=path)
    assert reader[0].image == png(1)
    for row, (_, reason) in enumerate(wrong, start=1):
        error = bad(reader, row)
        assert reason in error.reason and error.source == f"{path}:{row + 1}", error


def test_a_text_that_is_no_utf8_is_one_bad_row(tmp_path):
    texts = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [png(n) for n in range(3)], "text": texts}), path)
    reader = build_reader("parquet", path=path)
    assert (reader[0].captions, reader[2].captions) == (("good",), ("fine",))
    assert "invalid UTF-8" in bad(reader, 1).reason


def test_a_damaged_row_group_costs_its_own_rows(tmp_path):
    noise = [np.random.default_rng(n).bytes(3000) for n in range(6)]
    path = tmp_path / "a.parquet"
    write(path, {"image": noise, "text": list("abcdef")})
    metadata = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = metadata.dictionary_page_offset or metadata.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    reader = build_reader("parquet", path=str(path))
    assert [reader[n].image for n in (0, 1, 4, 5)] == [noise[n] for n in (0, 1, 4, 5)]
    for row in (2, 3, 2):
        assert "group 2 of its rows cannot be read" in bad(reader, row).reason


def test_a_file_that_goes_or_changes_is_no_crash(tmp_path):
    path = img2dataset(tmp_path / "a.parquet", 0, 5)
    reader = build_reader("parquet", path=path)
    os.rename(path, path + ".away")
    assert "No such file" in bad(reader, 0).reason
    os.rename(path + ".away", path)
    assert reader[0].image == png(0)  # tried again
    img2dataset(path, 0, 3)
    assert "start again" in bad(reader, 3).reason


def test_wrong_options_are_one_line(tmp_path):
    good = img2dataset(tmp_path / "a.parquet", 0, 3)
    other = write(tmp_path / "b.parquet", {"caption": ["x"], "image": ["http://x"]})
    empty = write(
        tmp_path / "c.parquet", {"caption": [], "jpg": []}, caption=pa.string(), jpg=pa.binary()
    )
    texts = write(tmp_path / "texts.parquet", {"caption": ["x"]})
    (tmp_path / "torn.parquet").write_bytes(Path(good).read_bytes()[:-20])
    (tmp_path / "nothing").mkdir()
    double = str(tmp_path / "double.parquet")
    arrays = [pa.array([value]) for value in (b"a", b"b", "x")]
    pq.write_table(pa.Table.from_arrays(arrays, ["image", "image", "text"]), double)
    for options, said in [
        ({"path": good, "image": "jpgg"}, '"jpgg", which is to be the image; did you mean "jpg"?'),
        ({"path": good, "caption": ["caption", "no"]}, '"no", which is to be the caption'),
        ({"path": good, "caption": "width"}, "of type int64: expected text or a list of texts"),
        ({"path": good, "caption": []}, "caption is an empty list"),
        ({"path": good, "caption": [3]}, "caption is 3"),
        ({"path": good, "id": ["key"]}, "id is ['key']"),
        ({"path": good, "memory": 0}, "memory is 0"),
        ({"path": good, "memory": True}, "memory is True"),
        ({"path": good, "images": "jpg"}, 'did you mean "image"?'),
        ({"path": other}, "none of its columns is known as image"),
        ({"path": texts}, "name one with image: NAME; it has caption"),
        ({"path": [good, other]}, 'b.parquet has no column "jpg"'),
        ({"path": double}, "none of its columns is known as image"),
        ({"path": double, "image": "image"}, 'has more than one column "image"'),
        ({"path": empty}, "holds no record"),
        ({"path": str(tmp_path / "torn.parquet")}, "torn.parquet is damaged or no Parquet file"),
        ({"path": str(tmp_path / "nothing")}, "has no file that ends with .parquet"),
        ({"path": "s3://bucket/a.parquet"}, "is in a store: files that end with .parquet are read"),
        ({"path": str(tmp_path / "no.parquet")}, "does not exist"),
    ]:
        with pytest.raises(UserError) as caught:
            build_reader("parquet", **options)
        assert said in str(caught.value) and "\n" not in str(caught.value), caught.value


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    path = img2dataset(tmp_path / "a.parquet", 0, 3)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r'pyarrow.*pip install "ernie_vil2\[data\]"'):
        build_reader("parquet", path=path)


# -- Memory ----------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch):
    """Row groups above 64 KiB count as large."""
    monkeypatch.setattr(parquet, "_PIECE_BYTES", 1 << 16)


@pytest.fixture
def loaded(monkeypatch) -> list:
    """The row groups that are decoded from now on, in order."""
    groups, load = [], parquet.ParquetFiles._load

    def counted(self, piece, names):
        groups.append(piece.group)
        return load(self, piece, names)

    monkeypatch.setattr(parquet.ParquetFiles, "_load", counted)
    return groups


def pictures(count: int) -> list:
    return [np.random.default_rng(n).bytes(20_000) for n in range(count)]


def test_a_large_row_group_is_read_in_parts(tmp_path, small_pieces):
    images = pictures(23)
    columns = {"image": images, "text": [f"text {n}" for n in range(23)], "more": images}
    path = write(tmp_path / "a.parquet", columns, rows_a_group=11)
    reader = build_reader("parquet", path=path)
    assert reader._files.lengths.tolist() == [3, 3, 3, 2, 3, 3, 3, 2, 1]  # of `more` none is read
    for order in (range(23), reversed(range(23)), [7, 20, 3, 8, 9, 22, 0]):
        for n in order:
            record = reader[n]
            assert (record.image, record.captions) == (images[n], (f"text {n}",))
            assert record.source == f"{path}:{n + 1}"
    assert pickle.loads(pickle.dumps(reader))[4] == reader[4]


def test_so_much_is_kept_and_no_more(tmp_path, small_pieces, loaded):
    images = pictures(200)
    path = write(tmp_path / "a.parquet", {"image": images, "text": ["x"] * 200}, rows_a_group=3)
    reader = build_reader("parquet", path=path, memory=1)
    before = pa.total_allocated_bytes()
    for n in range(200):
        assert reader[n].image == images[n]
        assert pa.total_allocated_bytes() - before < (1 << 20) + (1 << 18)
    assert loaded == list(range(67))  # each group once, in a row
    assert pa.total_allocated_bytes() - before > 1 << 19  # it keeps what it may
    reader[199], reader[190]
    assert len(loaded) == 67  # kept still
    reader[0]
    assert loaded[67:] == [0]  # gone long ago


def test_memory_of_one_huge_row_group_is_bounded(tmp_path, monkeypatch):
    """By the writer's pages, which are decoded as a whole: here of four pictures."""
    monkeypatch.setattr(parquet, "_PIECE_BYTES", 1 << 20)
    images = [np.random.default_rng(n).bytes(200_000) for n in range(200)]  # 40 MB in one group
    path = str(tmp_path / "a.parquet")
    table = pa.table({"image": images, "text": ["x"] * 200})
    pq.write_table(table, path, write_batch_size=4, use_dictionary=False)
    assert pq.ParquetFile(path).num_row_groups == 1
    reader = build_reader("parquet", path=path, memory=1)
    before, most = pa.total_allocated_bytes(), 0
    for n in [*range(200), 50, 199]:
        assert reader[n].image == images[n]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 6 << 20


def test_windows_of_row_groups_are_decoded_once(tmp_path, loaded, logged):
    images = pictures(120)
    path = write(tmp_path / "a.parquet", {"image": images, "text": ["x"] * 120}, rows_a_group=5)
    reader = build_reader("parquet", path=path, memory=1)
    order = reader.order(3, {"mode": "shards", "window": 4})
    positions = order(np.arange(240))
    for epoch in (positions[:120], positions[120:]):
        assert sorted(epoch) == list(range(120))
        loaded.clear()
        for n in epoch:
            assert reader[int(n)].image == images[n]
        assert len(set(loaded)) == len(loaded) > 20  # some are kept from epoch to epoch
    assert (positions[:120] != positions[120:]).any()
    assert "memory" not in logged.text
    for _ in range(2):
        reader.order(3, {"mode": "shards", "window": 24})
    assert logged.text.count("a window of 24 row groups takes about 3 MB") == 1
    assert "set memory to 3, or a smaller window" in logged.text
