"""Lists of names and templates: those of the package, files, and how names find their classes."""

import pytest

from ernie_vil2.data.class_names import Class, listed, name_classes, read_lines, read_names
from ernie_vil2.errors import UserError

COUNTS = {
    "names": {"imagenet_en": 1000, "imagenet_zh": 1000},
    "templates": {
        "openai_imagenet": 80,
        "chinese_clip_imagenet": 80,
        "chinese_clip": 183,
        "chinese_clip_flower": 32,
        "chinese_clip_food": 21,
        "chinese_clip_aircraft": 100,
        "chinese_clip_eurosat": 24,
        "chinese_clip_country211": 4,
    },
}


def test_the_lists_are_whole():
    for kind, counts in COUNTS.items():
        assert {name: len(read_lines(name, kind)) for name in listed(kind)} == counts
    for name in COUNTS["templates"]:
        assert all(line.count("{}") == 1 for line in read_lines(name, "templates"))
    english, chinese = (read_names(f"imagenet_{language}").names for language in ("en", "zh"))
    assert (english[0], english[340], english[-1]) == ("tench", "zebra", "toilet paper")
    assert (chinese[0], chinese[340], chinese[-1]) == ("丁鲷", "斑马", "卫生纸")
    assert read_lines("openai_imagenet", "templates")[0] == "a bad photo of a {}."


@pytest.fixture
def names(tmp_path):
    def names(*lines):
        (tmp_path / "names.txt").write_text("\n".join(lines), encoding="utf-8")
        return read_names(tmp_path / "names.txt")

    return names


def test_names_find_their_classes(names, logged):
    cat, dog = Class("cat", "cat"), Class("dog", "dog")
    assert name_classes(["dog"], names("cat", "dog", "")) == [cat, dog]  # the one without pictures
    keyed = names("n02\tthe cat", "n01\tdog")
    assert name_classes(["n01", "n02"], keyed) == [Class("n02", "the cat"), Class("n01", "dog")]
    numbers = name_classes(["000", "002"], names("飞机", "汽车", "鸟"))
    assert numbers == [Class("000", "飞机"), Class("1", "汽车"), Class("002", "鸟")]
    in_order = name_classes(["n01", "n02"], names("tench", "goldfish"))
    assert in_order == [Class("n01", "tench"), Class("n02", "goldfish")]
    assert not logged.text
    assert name_classes(["0", "1"], names("太阳镜", "太阳镜"))[1] == Class("1", "太阳镜")
    assert "one name to several classes, which no text tells apart: 太阳镜" in logged.text


@pytest.mark.parametrize(
    "lines, keys, error",
    [
        (["cat", "dog"], ["cat", "dgo", "x"], 'dgo is not in .*2 classes; did you mean "dog"'),
        (["cat", "dog", "cat"], ["cat"], "names cat twice, on lines 1 and 3"),
        (["a\tcat", "a\tdog"], ["a"], "names a twice, on lines 1 and 2"),
        (["a\tcat"], ["a", "b"], "class folder b is not in"),
        (["cat", "dog"], ["000", "002"], "002 has no line in .*, which has 2"),
        (["cat", "", "dog"], ["cat"], "names.txt:2 is blank"),
        (["a\tcat", "dog"], ["a"], "names.txt:2 has 1 columns"),
        (["", " "], ["a"], "is empty: expected names"),
    ],
)
def test_names_that_do_not_fit(names, lines, keys, error):
    with pytest.raises(UserError, match=error) as raised:
        name_classes(keys, names(*lines))
    assert "\n" not in str(raised.value)


def test_no_such_list():
    with pytest.raises(UserError, match='no file imagenet_cn; did you mean "imagenet_en"'):
        read_names("imagenet_cn")
