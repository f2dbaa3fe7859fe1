"""A folder of pictures and a file of texts, without a format's name."""

import os
import pickle

import pytest

from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.embedding import sources
from ernie_vil2.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.PNG", "a/c.jpeg", "a/.hidden.png", ".cache/d.png", "e.txt", "z.webp", "a.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "pictures"


def record_of(reader, number):
    try:
        return reader[number]
    except BadRecord as error:
        return error


def test_the_pictures_of_a_folder_by_name(folder, tmp_path):
    reader = pickle.loads(pickle.dumps(sources.given(str(folder)))).reader
    names = ["a.png", "b.PNG", "z.webp", "a/c.jpeg"]  # as the index walks
    assert [record.id for record in reader] == names
    for record in reader:
        assert record.source == f"{folder}/{record.id}" and record.image == record.id.encode()
        assert record.captions == record.tags == ()
    # as another process sees it that is told what there was
    reader.write_listing(tmp_path / "listing")
    (folder / "new.png").write_bytes(b"new")
    (folder / "b.PNG").unlink()
    told = sources.PictureFolder(str(folder), str(tmp_path / "listing"))
    assert len(told) == 4 and told[2].id == "z.webp"
    with pytest.raises(BadRecord, match=r"b\.PNG: cannot read image b\.PNG"):
        told[1]


def test_names_that_are_no_utf_8_and_links(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").write_bytes(b"elsewhere")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere/x.png")
    (folder / "lost.png").symlink_to(tmp_path / "nowhere")
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(b"odd")
    reader = sources.PictureFolder(str(folder))
    reader.write_listing(tmp_path / "listing")
    for same in (reader, sources.PictureFolder(str(folder), str(tmp_path / "listing"))):
        found = [record_of(same, number) for number in range(len(same))]
        assert {f.id: f.image for f in found if isinstance(f, Record)}["link.png"] == b"elsewhere"
        (bad,) = (f for f in found if isinstance(f, BadRecord))
        assert bad.source == f"{folder}/\udcff.png" and "no UTF-8: rename it" in bad.reason


def test_another_digest_after_each_kind_of_change(folder):
    def digest():
        return sources.PictureFolder(str(folder)).digest()

    seen = [digest(), digest()]
    assert seen.pop() == seen[0]
    (folder / "z.webp").write_bytes(b"longer than before")
    seen.append(digest())
    os.utime(folder / "z.webp", ns=(1, 1))
    seen.append(digest())
    (folder / "z.webp").rename(folder / "y.webp")
    seen.append(digest())
    assert len(set(seen)) == 4


def test_lines_of_a_text_file(tmp_path):
    path = tmp_path / "texts.TXT"
    path.write_bytes("\ufeff海边的猫\r\n\n  a dog \nlast".encode() + b"\xff")
    source = sources.given(str(path))
    found = [source.get(number) for number in range(len(source.reader))]
    assert [(f.id, f.captions, f.image) for f in (found[0], found[2])] == [
        ("1", ("海边的猫",), b""),
        ("3", ("a dog",), b""),
    ]
    assert [found[i].reason for i in (1, 3)] == ["blank line", "invalid UTF-8: invalid start byte"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "does not exist: expected a folder of pictures, or a .txt"),
        ("train.tsv", r"--dataset name=tsv path="),
        ("empty", r"holds no record"),
        ("empty.txt", "holds no record"),
    ],
)
def test_what_is_neither(tmp_path, name, said):
    (tmp_path / "train.tsv").write_text("a\tb\tc\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        sources.given(str(tmp_path / name)).reader  # noqa: B018
