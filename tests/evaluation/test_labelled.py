"""A record's class, by what it says."""

import pytest

from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.labelled import LabelOf

RECORD = Record(
    "id", b"x", ("an apple", "red"), ("Fruit", "Apple"), "a.tar:7", texts={"class": ("Gala",)}
)


@pytest.mark.parametrize(
    "key, label",
    [("class", "Gala"), ("caption", "an apple"), ("tags", "Apple"), ("tags.0", "Fruit")],
)
def test_a_label_by_its_key(key, label):
    assert LabelOf(key)(RECORD) == label
    assert LabelOf(key, [label])(RECORD) == label
    with pytest.raises(BadRecord, match=f"a.tar:7: its {key} is {label}, which names.txt does not"):
        LabelOf(key, ["other"], "names.txt")(RECORD)


@pytest.mark.parametrize("key", ["kind", "tags.2", "tags.-3"])
def test_a_record_without_it(key):
    with pytest.raises(BadRecord, match=f"no {key}, which says its class; it has caption, tags, c"):
        LabelOf(key)(RECORD)


def test_two_classes_and_a_key_that_is_none():
    two = Record("id", b"x", (), (), "a:1", texts={"class": ("a", "b")})
    with pytest.raises(BadRecord, match="class names 2 classes: expected one"):
        LabelOf("class")(two)
    with pytest.raises(UserError, match=r"label tags\.x: expected tags"):
        LabelOf("tags.x")
