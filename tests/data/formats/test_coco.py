"""COCO's captions and Karpathy's splits."""

import json
import sys

import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.errors import UserError
from tests.support.rows import bad, png


def coco_folder(tmp_path) -> str:
    (tmp_path / "images" / "val").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "images" / "val" / f"{i}.png").write_bytes(png(i))
    return str(tmp_path / "images")


def test_coco_captions(tmp_path):
    root = coco_folder(tmp_path)
    content = {
        "info": {"nested": [1, {"images": [1, 2]}], "é": "é"},
        "annotations": [
            {"image_id": 1, "id": 10, "caption": "第一"},
            {"image_id": 0, "id": 11, "caption": "zero"},
            {"image_id": 1, "id": 12, "caption": "one"},
            {"image_id": 0, "id": 13},
        ],
        "licenses": 3.5,
        "images": [{"id": i, "file_name": f"val/{i}.png"} for i in range(3)],
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8-sig")
    reader = build_reader("coco", annotations=str(path), root=root)
    assert [reader[i].captions for i in (0, 1)] == [("zero",), ("第一", "one")]
    assert [reader[i].image for i in (0, 1)] == [png(0), png(1)]
    assert reader[1].source == f"{path}:2" and reader.counts["images_without_text"] == 1
    assert len(reader) == 3 and bad(reader, 2).source == f"{path}:annotations:4"
    whole = reader.evaluation()
    assert [whole[i].captions for i in range(3)] == [("zero",), ("第一", "one"), ()]
    assert whole[1].text_ids == ((0, 10), (2, 12))
    with pytest.raises(UserError, match="no splits"):
        build_reader("coco", annotations=str(path), root=root, split="val")


@pytest.mark.parametrize("where", ["id", "image_id", "other"])
def test_a_number_of_any_length_in_coco_is_one_bad_row_at_most(tmp_path, where):
    root = coco_folder(tmp_path)
    digits = "9" * 5000
    image = {"id": 1, "file_name": "val/1.png"}
    text = {"image_id": 1, "caption": "one"}
    content = {"images": [image], "annotations": [text], "other": 1}
    whole = json.dumps(content)[:-2] + f"[{digits}]}}"
    extra = {
        "id": ('"images": [', f'"images": [{{"id": {digits}, "file_name": "val/0.png"}}, '),
        "image_id": (
            '"annotations": [',
            f'"annotations": [{{"caption": "x", "image_id": {digits}}}, ',
        ),
        "other": ("", ""),
    }
    path = tmp_path / "captions.json"
    path.write_text(whole.replace(*extra[where], 1))
    reader = build_reader("coco", annotations=str(path), root=root)
    assert reader[0].captions == ("one",)
    if where == "other" or sys.version_info < (3, 11):
        return  # an older Python reads the number
    assert len(reader) == 2
    error = bad(reader, 1)
    assert "invalid JSON" in error.reason and "digits" in error.reason


def test_karpathy_splits(tmp_path):
    root = coco_folder(tmp_path)
    splits = ["train", "test", "restval"]
    images = [
        {
            "filename": f"{i}.png",
            "filepath": "val",
            "split": split,
            "imgid": i,
            "sentences": [{"raw": f"{split} {n}", "tokens": []} for n in range(5)],
        }
        for i, split in enumerate(splits)
    ]
    images += [{**images[1], "cocoid": 77}, 3, {**images[1], "sentences": []}]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"dataset": "coco", "images": images}))
    options = {"name": "coco", "annotations": str(path), "root": root}
    test = build_reader(**options, split="test")
    assert [test[0].id, test[1].id] == ["1", "77"] and test[0].image == png(1)
    assert test[0].captions == tuple(f"test {n}" for n in range(5))
    assert len(test) == 4 and [bad(test, i).source[-2:] for i in (2, 3)] == [":5", ":6"]
    distractor = test.evaluation()[3]
    assert (distractor.id, distractor.captions, distractor.image) == ("1", (), png(1))
    train = build_reader(**options, split=["train", "restval"])
    assert [train[0].id, train[1].id, len(train)] == ["0", "2", 3]
    assert len(build_reader(**options)) == 6
    path.write_text(json.dumps({"images": images[:4]}))
    with pytest.raises(UserError, match='did you mean "test"'):
        build_reader(**options, split="tset")
