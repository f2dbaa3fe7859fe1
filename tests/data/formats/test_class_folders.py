"""A folder a class: torchvision's layout, and that of Chinese-CLIP's ELEVATER sets."""

import pickle

import pytest

from ernie_vil2.data.class_names import Class
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from tests.support.rows import png


@pytest.fixture
def folders(tmp_path):
    """{path: picture's number} -> the root, with these files."""

    def folders(**files):
        for path, number in files.items():
            file = tmp_path / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".PNG").write_bytes(png(number))
        return tmp_path

    return folders


def read(reader) -> list:
    return [(r.id, r.captions, r.texts["class"], r.image) for r in reader]


def test_a_folder_a_class(folders):
    root = folders(dog__2=0, dog__1=1, cat__deep__a=2)
    (root / "dog/notes.txt").write_text("no picture")
    (root / ".cache").mkdir()
    reader = build_reader("class_folders", root=str(root))
    expected = [
        ("cat/deep/a.PNG", ("cat",), ("cat",), png(2)),
        ("dog/1.PNG", ("dog",), ("dog",), png(1)),
        ("dog/2.PNG", ("dog",), ("dog",), png(0)),
    ]
    assert read(reader) == read(pickle.loads(pickle.dumps(reader))) == expected
    assert reader.classes == [Class("cat", "cat"), Class("dog", "dog")]
    (root / "names.txt").write_text("dog\t狗\ncat\t猫\nfish\t鱼\n", encoding="utf-8")
    reader = build_reader("class_folders", root=str(root), names=str(root / "names.txt"))
    assert [r[1:3] for r in read(reader)] == [(("猫",), ("cat",)), *[(("狗",), ("dog",))] * 2]
    (root / "dog/1.PNG").write_bytes(b"")
    with pytest.raises(BadRecord, match=r"dog/1\.PNG is empty"):
        reader[1]


def test_a_set_of_elevater_as_chinese_clip_publishes_it(folders):
    root = folders(test__000__a=0, test__002__b=1, train__001__c=2)
    (root / "label_cn.txt").write_text("飞机\n汽车\n鸟\n", encoding="utf-8")
    (root / "label.txt").write_text("plane\ncar\nbird\n")
    reader = build_reader("class_folders", root=str(root))
    assert [r[1:3] for r in read(reader)] == [(("飞机",), ("000",)), (("鸟",), ("002",))]
    assert [each.name for each in reader.classes] == ["飞机", "汽车", "鸟"]
    train = {"root": str(root), "split": "train", "names": str(root / "label.txt")}
    assert [r[1] for r in read(build_reader("class_folders", **train))] == [("car",)]


def test_folders_that_cannot_be_read(folders, tmp_path):
    def error(match, **options):
        with pytest.raises(UserError, match=match) as raised:
            build_reader("class_folders", **{"root": str(tmp_path), **options})
        assert "\n" not in str(raised.value)

    error("has no folders: expected one for each class")
    error("image folder .*none does not exist", root=str(tmp_path / "none"))
    folders(cat__1=0)
    error("so no split train: name the folder", split="train")
    names = tmp_path / "names.txt"
    names.write_text("dog\nfish\n")
    error("class folder cat is not in .*names.txt, which names 2", names=str(names))
    (tmp_path / "dog").mkdir()
    error("class folder .*dog holds no picture")
