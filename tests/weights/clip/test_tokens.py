"""Texts become the ids that Chinese-CLIP gives them."""

import pytest

from ernie_vil2.data.tokenize import Tokenizer
from tests.weights.clip.conftest import TOKENS


@pytest.mark.parametrize("text, expected", zip(TOKENS["texts"], TOKENS["ids"]))
def test_ids_of_cn_clip(tmp_path, text, expected):
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS["vocab"]), encoding="utf-8")
    assert Tokenizer(tmp_path / "vocab.txt", max_len=52)([text])[0].tolist() == expected
