"""Arrow files: PaddleNLP's pairs and pictures, Hugging Face's streams, mapped into memory."""

import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import bad, png


def write(path, columns: dict, rows_a_batch=None, compression=None) -> str:
    """As PaddleNLP's create_arrow_dataset.py does: a table of pandas, in one batch."""
    table = pa.Table.from_pandas(pd.DataFrame(columns))
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.RecordBatchFileWriter(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table, rows_a_batch)
    return str(path)


def split(folder, ids=(7, 30, 30, 4, 99), pictures=(30, 4, 7, 1), **more) -> dict:
    pairs = {
        **more,
        "image": [png(n) for n in ids],
        "caption": [f"text {row}" for row in range(len(ids))],
        "image_id": list(ids),
    }
    images = {"image": [png(n) for n in pictures], "image_id": list(pictures)}
    return {
        "path": write(folder / "valid.arrow", pairs),
        "images": write(folder / "valid_img.arrow", images),
    }


def test_pairs(tmp_path):
    path = split(tmp_path)["path"]
    reader = build_reader("arrow", path=path)
    assert [(r.id, r.captions) for r in (reader[n] for n in range(5))] == [
        (str(n), (f"text {row}",)) for row, n in enumerate((7, 30, 30, 4, 99))
    ]
    assert reader[3].image == png(4) and reader[3].source == f"{path}:4"
    whole = reader.evaluation()
    assert len(whole) == 5 and whole[4] == reader[4]


def test_a_record_per_picture_with_all_its_captions(tmp_path):
    files = split(tmp_path)
    reader = build_reader("arrow", **files)
    assert [(r.id, r.captions) for r in (reader[n] for n in range(3))] == [
        ("30", ("text 1", "text 2")),
        ("4", ("text 3",)),
        ("7", ("text 0",)),
    ]
    assert len(reader) == 3 and reader[2].image == png(7)
    assert reader[0].text_ids == ((1, None), (2, None))
    assert reader[0].source == f"{files['images']}:1"
    assert reader.counts == {
        "images_without_text": 1,
        "repeated_images": 0,
        "texts_of_unknown_images": 1,
    }
    whole = reader.evaluation()
    assert [whole[n].id for n in range(4)] == ["30", "4", "7", "1"]
    assert (whole[3].captions, whole[3].image) == ((), png(1))  # a distractor
    assert bad(whole, 4).source == f"{files['path']}:5" and "99" in bad(whole, 4).reason


def test_ids_as_texts_and_a_picture_in_several_rows(tmp_path):
    """As the newer create_arrow_dataset.py writes them, with a row of pictures for each pair."""
    ids = ["a.1", "b", "a.1"]
    pairs = {"image": [png(1), png(2), png(1)], "caption": ["x", "y", "z"], "image_id": ids}
    images = {name: pairs[name] for name in ("image", "image_id")}
    files = {
        "path": write(tmp_path / "test.arrow", pairs),
        "images": write(tmp_path / "test_img.arrow", images),
    }
    reader = build_reader("arrow", **files)
    assert [(r.id, r.captions) for r in (reader[0], reader[1])] == [
        ("a.1", ("x", "z")),
        ("b", ("y",)),
    ]
    assert len(reader) == 2 and reader.counts["repeated_images"] == 1


def test_rows_that_are_no_records(tmp_path):
    columns = {
        "image": [png(0), None, b"", png(3), png(4), png(5), png(6)],
        "caption": ["x", "x", "x", None, " ", "x", "fine"],
        "image_id": ["0", "1", "2", "3", "4", None, "6"],
    }
    path = write(tmp_path / "a.arrow", columns)
    reader = build_reader("arrow", path=path)
    assert reader[0].image == png(0) and reader[6].captions == ("fine",)
    reasons = ['"image" is missing', '"image" is empty', '"caption": no caption']
    reasons += ['"caption" is empty', '"image_id" is missing']
    for row, reason in enumerate(reasons, start=1):
        assert bad(reader, row).reason == reason and bad(reader, row).source == f"{path}:{row + 1}"
    joined = build_reader("arrow", path=path, images=path)
    assert [joined[n].id for n in (0, 3)] == ["0", "6"]
    rows = [bad(joined, n).source.rpartition(":")[2] for n in (1, 2, 4, 5, 6, 7)]
    assert rows == ["2", "3", "6", "4", "5", "6"]  # pictures, ids of pictures, rows of texts


def test_hugging_faces_streams(tmp_path):
    columns = {
        "image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(25)],
        "text": [[f"text {n}", "more"] for n in range(25)],
    }
    features = {"image": datasets.Image(), "text": datasets.Sequence(datasets.Value("string"))}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    made.save_to_disk(str(tmp_path / "set"), num_shards=2)
    made.to_parquet(str(tmp_path / "set.parquet"), batch_size=10)
    for reader in (
        build_reader("arrow", path=str(tmp_path / "set")),
        build_reader("parquet", path=str(tmp_path / "set.parquet")),
    ):
        assert len(reader) == 25
        for n in (24, 0, 13, 12):
            assert (reader[n].image, reader[n].captions) == (png(n), (f"text {n}", "more"))
            assert reader[n].id == reader[n].source


def test_captions_by_the_names_of_their_columns(tmp_path):
    """Of a record per row; two files joined by ids have one column of captions, as PaddleNLP's."""
    texts = {"alt": ["first", None], "synthetic": [["a", "b"], ["c"]]}
    path = write(tmp_path / "a.arrow", {"image": [png(0), png(1)], **texts})
    reader = build_reader("arrow", path=path, caption=["alt", "synthetic"])
    assert reader[0].texts == {"alt": ("first",), "synthetic": ("a", "b")}
    assert reader[1].texts == {"synthetic": ("c",)}
    with pytest.raises(UserError, match="joined by one column of ids and one of captions"):
        build_reader("arrow", **{**split(tmp_path, alt=["x"] * 5), "caption": ["caption", "alt"]})


def test_batches_and_what_is_compressed(tmp_path):
    columns = {
        "image": [np.random.default_rng(n).bytes(30_000) for n in range(40)],
        "caption": [f"text {n}" for n in range(40)],
        "image_id": list(range(40)),
    }
    plain = write(tmp_path / "plain.arrow", columns, 7)
    packed = write(tmp_path / "packed.arrow", columns, 7, "zstd")
    before = pa.total_allocated_bytes()
    reader = build_reader("arrow", path=plain)
    assert [reader[n].image for n in range(40)] == columns["image"]
    assert pa.total_allocated_bytes() - before < 10_000  # it is in the map
    near = reader.order(5, {"mode": "shards", "window": 2})(np.arange(40))
    assert sorted(near) == list(range(40))
    assert len({n // 7 for n in near[:12]}) == 2  # two record batches, of which one may have five
    reader = build_reader("arrow", path=[packed, plain], memory=1)
    for n in range(80):
        assert reader[n].image == columns["image"][n % 40]
        assert pa.total_allocated_bytes() - before < (1 << 20) + (1 << 18)
    assert pa.total_allocated_bytes() - before > 1 << 19


def test_a_damaged_file_is_no_crash(tmp_path):
    columns = {
        "image": [png(n) for n in range(4)],
        "caption": list("abcd"),
        "image_id": [1, 2, 3, 4],
    }
    path = Path(write(tmp_path / "a.arrow", columns))
    offsets = np.cumsum([0, *(len(png(n)) for n in range(4))]).astype("<i4").tobytes()
    data = path.read_bytes()
    assert data.count(offsets) == 1
    wild = np.array([0, 1 << 30, 1 << 30, 1 << 30, 1 << 30], "<i4").tobytes()
    path.write_bytes(data.replace(offsets, wild))
    assert (
        "group 1 of its rows cannot be read" in bad(build_reader("arrow", path=str(path)), 1).reason
    )


def test_wrong_options_are_one_line(tmp_path, monkeypatch):
    good = split(tmp_path)
    no_id = write(tmp_path / "no_id.arrow", {"image": [png(1)], "caption": ["x"]})
    (tmp_path / "junk.arrow").write_bytes(b"junk" * 100)
    (tmp_path / "torn.arrow").write_bytes(Path(good["path"]).read_bytes()[:-30])
    (tmp_path / "empty.arrow").touch()
    none = write(tmp_path / "none.arrow", {"image": [png(1)], "caption": ["x"], "image_id": [1]})
    table = pa.table({"image": [png(1)], "caption": ["x"]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    stream = tmp_path / "stream.arrow"
    with (
        pa.OSFile(str(stream), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    for options, said in [
        ({"path": good["images"]}, "none of its columns is known as caption"),
        ({"path": good["path"], "image": "imag"}, 'did you mean "image"?'),
        ({**good, "images": no_id}, "joined by one column of ids and one of captions"),
        ({**good, "images": str(tmp_path / "no.arrow")}, "does not exist"),
        ({**good, "caption": ["caption", "image_id"]}, "of type int64: expected text"),
        ({"path": str(tmp_path / "junk.arrow")}, "is damaged or no Arrow file"),
        ({"path": str(tmp_path / "torn.arrow")}, "is damaged or no Arrow file"),
        ({"path": str(tmp_path / "empty.arrow")}, "is damaged or no Arrow file"),
        ({"path": str(stream)}, "it is a compressed stream"),
        ({"path": none, "memory": "1G"}, "memory is '1G'"),
    ]:
        with pytest.raises(UserError) as caught:
            build_reader("arrow", **options)
        assert said in str(caught.value) and "\n" not in str(caught.value), caught.value
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pyarrow.*pip install "ernie_vil2\[data\]"'):
        build_reader("arrow", path=none)
