import numpy as np
import pytest

from ernie_vil2.data.tags import language_of, tag_sentence
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError

TAGS = ["red car", "blue sky", "green sign", "dog", "tree", "house"]
WORDS = [*"图人狗飞盘,:", "the", "picture", "contains", *" ".join(TAGS).split()]


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]), encoding="utf-8")
    return Tokenizer(path, max_len=48)


def test_the_sentence_of_both_languages(tokenizer):
    english = tag_sentence(["red car", "dog"], "The picture contains {}", ", ", tokenizer)
    assert english == "The picture contains red car, dog"
    chinese = tag_sentence(["人", "狗", "飞盘"], "该图片包含：{}", "，", tokenizer)
    assert chinese == "该图片包含：人，狗，飞盘"
    assert tag_sentence(["a {} b", "{0}"], "{}!", "|", tokenizer) == "a {} b|{0}!"


@pytest.mark.parametrize("max_len", range(3, 24))
def test_as_many_whole_tags_as_fit(tokenizer, max_len):
    tokenizer.max_len = max_len
    sentence = tag_sentence(TAGS, "The picture contains {}", ", ", tokenizer)
    kept = sentence[len("The picture contains ") :].split(", ")
    assert kept == TAGS[: len(kept)]
    # 3 words, then 2 of each of the first three tags, 1 of the others, and the commas between
    lengths = 3 + np.cumsum([2, 3, 3, 2, 2, 2])
    assert len(kept) == max(1, np.sum(lengths <= max_len - 2))


def test_a_generator_shuffles(tokenizer):
    def tags(seed):
        sentence = tag_sentence(TAGS, "{}", ",", tokenizer, np.random.default_rng(seed))
        return sentence.split(",")

    assert tags(1) == tags(1)
    assert sorted(tags(1)) == sorted(TAGS)
    assert {tags(seed)[0] for seed in range(60)} == set(TAGS)
    assert TAGS[0] == "red car"  # the caller's list stays as it was


def test_template_without_a_place_for_the_tags(tokenizer):
    with pytest.raises(UserError, match=r"expected \{\} where the tags go"):
        tag_sentence(TAGS, "The picture", ", ", tokenizer)


def test_language():
    assert language_of(["red car", "红车"]) == "zh"
    assert language_of(["café", "ひらがな", "한국", "，。", "😀"]) == "en"
    assert language_of(["㐀"]) == language_of(["\U00020000"]) == "zh"
    assert language_of([]) == "en"
