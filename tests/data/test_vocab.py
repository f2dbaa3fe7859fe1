"""A vocabulary's tokens, from texts."""

import pytest

from ernie_vil2.data import vocab
from ernie_vil2.errors import UserError


def test_vocab_endings_that_many_words_share():
    texts = ["baking making taking waking raking bake"]
    assert {"##aking", "##king", "##ing"} <= set(vocab.build_vocab(texts, 100))
    assert "##aking" not in vocab.build_vocab(["baking making"], 100)
    assert vocab.build_vocab(texts, 100) == vocab.build_vocab(texts, 100)
    with pytest.raises(UserError, match="no word"):
        vocab.build_vocab(["\n"], 100)
