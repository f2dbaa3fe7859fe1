"""An image folder and its JSONL file: what a row gives, and what is refused."""

import os

from ernie_vil2.data.formats.build import build_reader
from tests.support.rows import bad, png, write


def test_folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(png(1))
    (root / "empty.png").write_bytes(b"")
    (root / "huge.png").touch()
    os.truncate(root / "huge.png", 200_000_000_000)  # a hole, which takes no room
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    image = {"image": "sub/a.png"}
    good = [
        {**image, "captions": ["一只猫", "a cat"], "tags": ["猫"], "id": 7},
        {"image": "./sub//a.png", "caption": "a cat"},
    ]
    wrong = [
        ({"image": "../secret.png", "caption": "x"}, "leaves"),
        ({"image": str(tmp_path / "secret.png"), "caption": "x"}, "leaves"),
        ({"image": "link.png", "caption": "x"}, "leaves"),
        ({"image": "no.png", "caption": "x"}, "No such file"),
        ({"image": "sub", "caption": "x"}, "is no file"),
        ({"image": "empty.png", "caption": "x"}, "empty"),
        ({"image": "a\0b", "caption": "x"}, "NUL"),
        ({"caption": "x"}, '"image" is missing'),
        (image, "captions is missing"),
        ({"image": "huge.png", "caption": "x"}, "200000000000 bytes, at most 1073741824"),
        ({**image, "captions": []}, "captions is empty"),
        ({**image, "captions": "x"}, "no list"),
        ({**image, "captions": [1]}, "no string"),
        ({**image, "caption": "\ud800"}, "half a character"),
        ({**image, "caption": "x", "tags": "x"}, "tags is no list"),
        ({**image, "caption": "x", "id": [1]}, "id is no string"),
        ([1], "expected an object"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"caption": "\xff"}', "UTF-8"),
        (b"", "blank"),
    ]
    path = write(tmp_path / "a.jsonl", *good, *(row for row, _ in wrong))
    reader = build_reader("folder", root=str(root), jsonl=path)
    assert reader[0].captions == ("一只猫", "a cat") and reader[0].tags == ("猫",)
    assert (reader[0].id, reader[1].id) == ("7", "sub/a.png")
    assert reader[0].image == reader[1].image == png(1)
    for row, (_, reason) in enumerate(wrong, start=2):
        error = bad(reader, row)
        assert reason in error.reason and error.source == f"{path}:{row + 1}", error
    empty = 2 + wrong.index(({**image, "captions": []}, "captions is empty"))
    distractor = reader.evaluation()[empty]
    assert (distractor.captions, distractor.image) == ((), png(1))
    assert bad(reader, empty)  # for training still
