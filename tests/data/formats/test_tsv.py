"""The official TSV: every spelling of its rows, and what is refused."""

import base64
import pickle

import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from tests.support.rows import b64, bad, png, write


def test_tsv_reads_every_kind_of_base64(tmp_path):
    image = next(image for image in map(png, range(99)) if {43, 47} <= set(b64(image)))
    image += b"." * (-len(image) % 3 + 1)  # so that there is padding
    urlsafe = base64.urlsafe_b64encode(image)
    assert urlsafe != b64(image) and urlsafe.endswith(b"==")
    encoded = [b64(image), urlsafe, b64(image).rstrip(b"="), urlsafe.rstrip(b"=")]
    rows = [b"text %d\tid\t%s" % (i, data) for i, data in enumerate(encoded)]
    reader = build_reader("tsv", path=write(tmp_path / "a.tsv", *rows))
    assert [record.image for record in reader] == [image] * 4
    assert reader[3].captions == ("text 3",) and reader[-1] == reader[3] and reader[0].id == "id"


def test_tsv_by_the_official_loader_s_rule(tmp_path):
    """The first column and the last of a row without the white space around it, however many."""
    one, two = b64(png(1)), b64(png(2))
    rows = [b"a\t" + one, b"b\tx\ty\tz\tw\t" + one + b" \t", b" \tc\t7\t" + two, b"only one"]
    path = write(tmp_path / "a.tsv", *rows)
    reader = build_reader("tsv", path=path, ends=True)
    found = [reader[i] for i in range(3)]
    assert [(r.captions, r.image, r.tags) for r in found] == [
        (("a",), png(1), ()),
        (("b",), png(1), ()),
        (("c",), png(2), ()),
    ]
    assert found[0].id == found[1].id != found[2].id  # equal base64 is one image
    with pytest.raises(BadRecord, match=r"a\.tsv:4: 1 column, expected a text first and base64"):
        reader[3]
    with pytest.raises(BadRecord, match=r"\d columns, expected text, image id"):
        build_reader("tsv", path=path)[1]
    with pytest.raises(UserError, match="columns that ends does not read"):
        build_reader("tsv", path=path, ends=True, texts=["alt"])


def test_tsv_tags_bom_crlf_and_no_last_line_feed(tmp_path):
    path = tmp_path / "a.tsv"
    rows = ["一只猫\t7\t%s\t猫| 动物 |", "a cat\t7\t%s\t", "no tags\t8\t%s"]
    text = "\r\n".join(row % b64(png(1)).decode() for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    reader = build_reader("tsv", path=str(path))
    assert [r.captions[0] for r in reader] == ["一只猫", "a cat", "no tags"]
    assert [r.tags for r in reader] == [("猫", "动物"), (), ()]
    assert [r.source for r in reader] == [f"{path}:{row}" for row in (1, 2, 3)]
    assert all(r.image == png(1) for r in reader)
    commas = write(tmp_path / "b.tsv", b"a\tb\t" + b64(png(1)) + b"\tx, y")
    assert build_reader("tsv", path=commas, tag_separator=",")[0].tags == ("x", "y")


@pytest.mark.parametrize(
    "row, reason",
    [
        (b"", "blank"),
        (b" \t ", "blank"),
        (b"\r", "blank"),
        (b"text\tid", "2 columns"),
        (b"text\tid\tAAAA\tx\ty", "5 columns"),
        (b"te\0xt\tid\tAAAA", "NUL"),
        (b"\xff\xfe\tid\tAAAA", "UTF-8"),
        (b"text\tid\tAAAA\t\xff", "UTF-8"),
        (b"\tid\tAAAA", "text is empty"),
        (b"text\t \tAAAA", "image id is empty"),
        (b"text\tid\t", "base64"),
        (b"text\tid\tAAAAA", "base64"),
        (b"text\tid\tAA=A", "base64"),
        (b"text\tid\tAA*A", "base64"),
        (b"text\tid\tAA\xc3\xa9A", "base64"),
    ],
)
def test_tsv_bad_rows_are_named_and_keep_their_place(tmp_path, row, reason):
    good = b"text\tid\t" + b64(png(1))
    path = write(tmp_path / "a.tsv", good, row, good)
    reader = build_reader("tsv", path=path)
    assert len(reader) == 3 and reader[2].source == f"{path}:3"
    error = bad(reader, 1)
    assert error.source == f"{path}:2" and reason in error.reason
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_tsv_many_files_by_list_and_pattern(tmp_path):
    for name, count in (("b", 2), ("a", 3), ("none", 0), ("c", 1)):
        rows = [b"%s%d\tid\tAAAA" % (name.encode(), i) for i in range(count)]
        path = tmp_path / f"{name}.tsv"
        path.write_bytes(b"".join(row + b"\n" for row in rows))
    reader = build_reader("tsv", path=str(tmp_path / "*.tsv"))
    assert [r.captions[0] for r in reader] == ["a0", "a1", "a2", "b0", "b1", "c0"]
    listed = build_reader("tsv", path=[str(tmp_path / "c.tsv"), str(tmp_path / "[ab].tsv")])
    assert [r.captions[0] for r in listed] == ["c0", "a0", "a1", "a2", "b0", "b1"]
    assert listed[4].source == f"{tmp_path / 'b.tsv'}:1"
    with pytest.raises(IndexError):
        listed[6]
