"""A WordPiece vocabulary for a text tower that is trained from nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ernie_vil2.data.tokenize import MAX_WORD, words
from ernie_vil2.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")  # in the order of their ids
MIN_PIECE_WORDS = 5  # an ending gets a '##' token of its own where so many words share it


def build_vocab(texts: Iterable[str], size: int) -> list[str]:
    """At most `size` tokens: special ones, characters, whole words and '##' pieces.

    The texts are split by the tokenizer's own `words`. Every character of them is a token, so that
    no word made of them is ever [UNK]; letters also as '##' pieces. The room left goes to whole
    words, most frequent first, then to endings that many words share. Words that the tokenizer
    finds too long are left out.

    Raises:
        UserError: `size` does not hold the characters, or the texts hold no word.
    """
    counts = Counter(word for text in texts for word in words(text) if len(word) <= MAX_WORD)
    characters: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for char in word:
            characters[char] += count
            if len(word) > 1:
                letters["##" + char] += count
    tokens = [*SPECIAL_TOKENS, *_by_frequency(characters), *_by_frequency(letters)]
    if len(tokens) == len(SPECIAL_TOKENS):
        raise UserError("the texts for the vocabulary hold no word: name files with text in them")
    if len(tokens) > size:
        raise UserError(
            f"a vocabulary of {size} is too small: the characters of the texts alone take "
            f"{len(tokens)}; raise --size"
        )
    tokens += _by_frequency({word: n for word, n in counts.items() if len(word) > 1})
    if len(tokens) < size:
        endings = Counter("##" + word[i:] for word in counts for i in range(1, len(word) - 1))
        tokens += _by_frequency({e: n for e, n in endings.items() if n >= MIN_PIECE_WORDS})
    return tokens[:size]


def _by_frequency(counts: Mapping[str, int]) -> list[str]:
    """Most frequent first, equals in alphabetical order: the same texts give the same ids."""
    return sorted(counts, key=lambda token: (-counts[token], token))
