"""A tokenizer's ids must be those of the rows that were trained."""

import pytest

from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import build_model
from ernie_vil2.weights.official import save_official
from ernie_vil2.weights.ours import save_checkpoint
from ernie_vil2.weights.vocabulary import (
    check_max_len,
    check_pretrained_vocabulary,
    check_resumed_vocabulary,
    check_vocabulary,
)
from tests.support.official_form import ARCH

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{i}" for i in range(20))]


def tokenizer(path, words, **options):
    path.write_text("\n".join(words), encoding="utf-8")
    return Tokenizer(path, **options)


@pytest.fixture
def weights(tmp_path):
    """A folder of ours with a vocabulary of 25 tokens beside the weights."""
    (tmp_path / "own.txt").write_text("\n".join(WORDS), encoding="utf-8")
    save_checkpoint(build_model(ARCH), tmp_path / "ours", tmp_path / "own.txt")
    return tmp_path / "ours"


def test_vocabulary_of_another_size(tmp_path, logged):
    model = build_model(ARCH)  # 60 tokens
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]

    def of_size(size):
        path = tmp_path / f"{size}.txt"
        path.write_text("\n".join([*specials, *(f"w{i}" for i in range(size - 5))]))
        return Tokenizer(path)

    with pytest.raises(UserError, match="61 tokens, the text tower 60"):
        check_vocabulary(model, of_size(61), trained=False)
    check_vocabulary(model, of_size(60), trained=True)
    check_vocabulary(model, of_size(59), trained=False)
    assert not logged.records
    check_vocabulary(model, of_size(59), trained=True)
    assert "59 tokens" in logged.text


def test_spare_rows_are_no_cause_for_a_question(fixtures_dir, logged):
    class Model:
        text_tower = type("Tower", (), {"vocab_size": 40000, "max_len": 2048})

    released = Tokenizer(fixtures_dir / "ernie_3.0_base_vocab.txt")
    assert released.vocab_size == 39980
    check_vocabulary(Model, released, trained=True)
    assert not logged.records


def test_too_few_rows_name_the_number_that_is_wanted(tmp_path):
    model = build_model({**ARCH, "Text": {**ARCH["Text"], "vocab_size": 24}})
    with pytest.raises(UserError, match=r"has 25 tokens, the text tower 24: set .*vocab_size=25"):
        check_vocabulary(model, tokenizer(tmp_path / "v.txt", WORDS), trained=False)


def test_max_len(tmp_path):
    model = build_model(ARCH)  # 10 positions
    check_max_len(model, tokenizer(tmp_path / "v.txt", WORDS, max_len=10))
    with pytest.raises(UserError, match="max_len is 11, but the text tower takes 10 tokens"):
        check_max_len(model, tokenizer(tmp_path / "v.txt", WORDS, max_len=11))


def test_another_vocabulary_of_the_same_size(weights, tmp_path):
    swapped = [*WORDS[:8], WORDS[9], WORDS[8], *WORDS[10:]]
    with pytest.raises(UserError) as error:
        check_pretrained_vocabulary(weights, tokenizer(tmp_path / "v.txt", swapped))
    message = str(error.value)
    assert 'row 8 is "w4" here and "w3" there, 2 rows differ' in message
    assert f"Tokenizer.vocab_file={weights}/vocab.txt" in message and "\n" not in message
    assert "Global.pretrained_other_vocab=true" in message


@pytest.mark.parametrize(
    "words",
    [
        WORDS,
        [f"{word}\t{row}" for row, word in enumerate(WORDS)],  # the official way to write it
        WORDS[:-3],
        [*WORDS, "a new token in a spare row"],
    ],
)
def test_no_other_vocabulary(weights, tmp_path, words):
    check_pretrained_vocabulary(weights, tokenizer(tmp_path / "v.txt", words))


def test_weights_that_know_no_vocabulary(tmp_path):
    save_official(
        build_model({**ARCH, "Image": {**ARCH["Image"], "embed_dim": 48}}), tmp_path / "o.pdparams"
    )
    check_pretrained_vocabulary(tmp_path / "o.pdparams", tokenizer(tmp_path / "v.txt", WORDS))


@pytest.mark.parametrize(
    "words, said",
    [
        ([*WORDS, "new"], '"new" is row 25 here, missing there'),
        (WORDS[:-1], '"w19" is missing here, row 24 there'),
        ([*WORDS[:-2], WORDS[-1], WORDS[-2]], '"w18" is row 24 here, row 23 there'),
    ],
)
def test_a_resume_takes_no_other(weights, tmp_path, words, said):
    check_resumed_vocabulary(weights, tokenizer(tmp_path / "v.txt", WORDS))
    with pytest.raises(UserError) as error:
        check_resumed_vocabulary(weights, tokenizer(tmp_path / "v.txt", words))
    assert said in str(error.value) and "\n" not in str(error.value)
