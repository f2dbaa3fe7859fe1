"""Where a source lies, without reading all of the set."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import BadRecord
from tests.support.pictures import noise


def write_tsv(folder):
    for name in ("a", "b"):
        row = "text\tid\tAAAA\n"
        (folder / f"{name}.tsv").write_text(row * 3 + "no record\n" + row * 2, "utf-8")
    return {"name": "tsv", "path": str(folder / "*.tsv")}


def write_shards(folder):
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(shard):
                for end, data in ((".png", noise("PNG")), (".txt", b"a text")):
                    if (number, end) != (1, ".txt"):  # a record without a text is a bad one
                        member = tarfile.TarInfo(f"{shard}{number:05d}{end}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    return {"name": "shards", "path": str(folder / "*.tar")}


def write_parquet(folder):
    for name in ("a", "b"):
        table = pa.table({"image": [noise("PNG")] * 5, "caption": ["x", "y", None, "z", "w"]})
        pa.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=2)
    return {"name": "parquet", "path": str(folder / "*.parquet")}


def write_mixture(folder):
    sources = {"one": write_tsv(folder), "two": write_shards(folder)}
    return {"name": "mixture", "sources": sources}


def source_of(reader, number):
    try:
        return reader[number].source
    except BadRecord as error:
        return error.source


@pytest.mark.parametrize("write", [write_tsv, write_shards, write_parquet, write_mixture])
def test_every_record_is_found_by_its_source(tmp_path, write):
    reader = build_reader(**write(tmp_path))
    sources = [source_of(reader, number) for number in range(len(reader))]
    assert [reader.find(source) for source in sources] == list(range(len(reader)))
    for other in ("elsewhere.tsv:1", sources[0] + "9", sources[0].replace(":", ":x"), "", "a:0"):
        assert reader.find(other) is None


def test_a_user_s_own_reader_may_say_where():
    class Own:
        def __len__(self):
            return 3

        def __getitem__(self, position):
            raise BadRecord(f"own:{position}", "bad")

    from ernie_vil2.data.formats.build import _as_reader

    assert _as_reader("Own", Own()).find("own:2") is None
    Own.find = lambda self, source: int(source[4:])
    assert _as_reader("Own", Own()).find("own:2") == 2
