"""Published captions and a folder of pictures become rows that the format `folder` reads."""

import json

import pytest

from ernie_vil2.data.caption_files import read_ids, write_folder_rows
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import png


@pytest.fixture
def write(tmp_path):
    """Pictures, and a file of captions, -> what `write_folder_rows` did, and its rows."""

    def write(text, pictures, name="captions.txt", **options):
        for number, picture in enumerate(pictures):
            path = tmp_path / "images" / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        file = tmp_path / name
        file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        out = tmp_path / "new" / "train.jsonl"
        done = write_folder_rows([str(file)], str(tmp_path / "images"), out, **options)
        reader = build_reader("folder", root=str(tmp_path / "images"), jsonl=str(out))
        return done, [reader[number] for number in range(len(reader))]

    return write


def test_lines_of_every_form(write):
    lines = "7.jpg#0\ta dog runs .\n7.jpg#1\tit runs\r\n\n8#enc#0 二 只狗\n9\t三只猫\n"
    done, rows = write(lines, ["9.jpg", "deep/er/7.jpg", "8.JPG"])
    assert [(row.id, row.captions) for row in rows] == [
        ("7", ("a dog runs .", "it runs")),
        ("8", ("二 只狗",)),
        ("9", ("三只猫",)),
    ]
    assert [row.image for row in rows] == [png(1), png(2), png(0)]  # each by its own id
    assert done[:2] == (3, 4) and not done.missing and not done.bad


def test_words_are_joined_without_their_parts_of_speech(write):
    lines = "1#zhm#0 警车:n 停:v 在:p 路边:s ，:wd 12:30 到:v\n"
    _, rows = write(lines, ["1.jpg"], segmented=True)
    assert rows[0].captions == ("警车停在路边，12:30到",)


def test_ai_challengers_array(write):
    array = [
        {"url": "http://x/1", "image_id": "8f00.jpg", "caption": ["一个人", "一个男人"]},
        {"image_id": "77.jpg", "caption": "no list"},
        {"image_id": "aa.jpg", "caption": ["远处"]},
    ]
    done, rows = write(array, ["8f00.jpg", "aa.jpg"], "train.json", limit=1)
    assert [(row.id, row.captions) for row in rows] == [("8f00", ("一个人", "一个男人"))]
    assert [error.source.rpartition(":")[2] for error in done.bad] == ["2"]


def test_a_split_and_what_is_left_out(write, tmp_path):
    (tmp_path / "ids.txt").write_text("1\n3.jpg\n\n")
    only = read_ids(str(tmp_path / "ids.txt"))
    done, rows = write("1#0 a\n2#0 b\n3#0 c\nlonely\n", ["1.jpg", "2.jpg"], only=only)
    assert [row.id for row in rows] == ["1"] and done.missing == ["3"]
    assert [(e.source.rpartition(":")[2], e.reason) for e in done.bad] == [
        ("4", "caption is missing")
    ]


def test_what_cannot_be_meant_is_one_line(write):
    with pytest.raises(UserError, match=r"none of 1 pictures .* such as 5\.jpg"):
        write("5#0 a\n", ["6.jpg"])
    with pytest.raises(UserError, match=r"a/7\.jpg and b/7\.jpg .* id 7 both"):
        write("7#0 a\n", ["a/7.jpg", "b/7.jpg"])
    with pytest.raises(UserError, match="JSON dict: expected AI Challenger's array"):
        write({"images": []}, ["6.png"], "x.json")
