"""The label files: complete, in their order, with a tag in both languages."""

import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.tagging.labels import FOLDER, in_language, labels, stated_labels

SIZES = {"coco": 80, "objects365": 365, "vehicle_attribute": 19, "person_attribute": 26}


@pytest.mark.parametrize("name", SIZES)
def test_files(name):
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert [int(row[0]) for row in rows] == list(range(SIZES[name]))
    assert any("http" in line or "PaddleClas" in line for line in lines[:4])  # where it is from
    known = labels(name)
    assert len({label.name for label in known}) == SIZES[name]
    for label in known:
        assert label.en.isascii() and not label.zh.isascii(), label
        assert label.en.strip() == label.en and label.zh.strip() == label.zh
        assert "/" not in label.en and "|" not in label.en + label.zh


def test_the_order_is_that_of_the_data_sets():
    names = [label.name for label in labels("coco")]
    assert (names[0], names[2], names[39], names[79]) == ("person", "car", "bottle", "toothbrush")
    names = [label.name for label in labels("objects365")]
    assert (names[0], names[1], names[92], names[364]) == (
        "Person",
        "Sneakers",
        "Dog",
        "Table Tennis",
    )


def test_names_of_a_model_in_words():
    known = stated_labels(["Noddles", "Dinning Table", "Cabinet/shelf", "person"], None, "x.yml")
    assert in_language(known, None) == ["noodles", "dining table", "cabinet", "person"]
    assert in_language(known, "zh") == ["面条", "餐桌", "柜子", "人"]
    # of two files the one that has most of the names: a van of COCO's does not exist
    vehicles = stated_labels([label.name for label in labels("vehicle_attribute")], None, "x.yml")
    assert "SUV" in in_language(vehicles, "en") and "旅行车" in in_language(vehicles, "zh")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0 plain word\n1 other\n", encoding="utf-8")
    assert in_language(stated_labels(None, str(path), "x"), "en") == ["plain word", "other"]
    path.write_text("a\tb c\t丙\nd\te\t己\n", encoding="utf-8")
    assert in_language(stated_labels(["no"], str(path), "x"), "zh") == ["丙", "己"]
    path.write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(UserError, match="neither a label nor name, English and Chinese"):
        stated_labels(None, str(path), "x")
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no label"):
        stated_labels(None, str(path), "x")
    with pytest.raises(UserError, match="has no label_list"):
        stated_labels(None, None, "x.yml")
    with pytest.raises(UserError, match="expected one of en, zh"):
        in_language([], "fr")
