"""Tags from captions: what the rule for English and jieba's parts of speech give, case by case."""

import pickle

import pytest

from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.tagging.captions import CaptionTagger, chinese_nouns, english_phrases
from ernie_vil2.tagging.tags import Choice


@pytest.mark.parametrize(
    "text,phrases",
    [
        ("A man riding a wave on top of a surfboard.", ["man", "wave", "surfboard"]),
        ("A small brown dog runs across the green grass", ["brown dog", "green grass"]),
        ("a dining table near running shoes", ["dining table", "shoes"]),
        ("Two red circles and a blue square", ["red circles", "blue square"]),
        ("a picture of a cat sitting on a parked car", ["cat", "parked car"]),
        ("The dog's bowl is in the building.", ["dog bowl", "building"]),
        ("A woman wearing sunglasses, a hat", ["woman", "sunglasses", "hat"]),
        ("a very large old brick fire station clock tower", ["station clock tower"]),
        ("stainless-steel refrigerator", ["stainless-steel refrigerator"]),
        ("It is there, and they were on it.", []),
        ("", []),
        # what the rule does not know
        ("a wall painted blue", ["wall", "blue"]),
        ("dogs race cars", ["dogs race cars"]),
    ],
)
def test_english(text, phrases):
    assert english_phrases(text) == phrases


@pytest.mark.parametrize(
    "text,nouns",
    [
        ("一只猫趴在沙发上看电视", ["猫", "沙发"]),
        ("一张女孩的照片", ["女孩"]),
        ("两个男人站在足球场上", ["男人", "足球场"]),
        ("他们正在跑", []),
    ],
)
def test_chinese(text, nouns):
    assert chinese_nouns(text) == nouns


def tags_of(*captions, choice=None, language=None):
    tagger = pickle.loads(pickle.dumps(CaptionTagger(choice or Choice(), language)))
    (tags,) = tagger.tag([Record("a", b"", captions, (), "test:1")])
    return tags


def test_what_more_captions_say_goes_first():
    tags = tags_of("a dog and a cat", "a cat", "a cat on a sofa", "a sofa")
    assert tags.names == ("cat", "sofa", "dog") and tags.scores == (0.75, 0.5, 0.25)
    assert tags_of("a dog", "a cat", "a cat", choice=Choice(threshold=0.5)).names == ("cat",)
    assert tags_of("a dog, a cat", choice=Choice(at_most=1)).names == ("dog",)
    assert tags_of("a dog. A dog!").names == ("dog",)
    assert tags_of().names == ()


def test_each_caption_in_its_language():
    both = ("a red car", "一辆汽车在公路上")
    assert tags_of(*both).names == ("red car", "汽车", "公路")
    assert tags_of(*both, language="zh").names == ("汽车", "公路")
    assert tags_of(*both, language="en").names == ("red car",)
    with pytest.raises(UserError, match="expected en or zh"):
        CaptionTagger(Choice(), "de")


def test_wrong_order_is_told():
    with pytest.raises(UserError, match="expected one of score, area"):
        Choice(order="size")
