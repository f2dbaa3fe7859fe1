"""A WordPiece vocabulary for a text tower that is trained from nothing."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ernie_vil2.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")  # their ids are their places
MIN_PIECE_WORDS = 5  # an ending earns a '##' token of its own when this many words share it
# The blocks that BERT takes for Chinese: ideographs, not kana or hangul.
_CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def is_cjk(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _CJK)


def _is_sign(char: str) -> bool:
    """Punctuation, and what PaddleNLP splits off like it: symbols and a few letters."""
    return unicodedata.category(char)[0] in "PS" or char in "²º〇µŋ"


def words(text: str) -> Iterator[str]:
    """The words of a text as the BasicTokenizer of PaddleNLP's ERNIE splits it.

    Lower-cased, accents stripped; each ideograph, punctuation mark and symbol is a word of its own.
    """
    word = ""
    for char in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(char)
        if category == "Mn" or char == "\ufffd":
            continue
        if category.startswith("C") and char not in "\t\n\r":
            continue  # control and format characters vanish, and part nothing
        alone = is_cjk(char) or _is_sign(char)
        if alone or char.isspace():
            if word:
                yield word
            word = ""
            if alone:
                yield char
        else:
            word += char
    if word:
        yield word


def build_vocab(texts: Iterable[str], size: int) -> list:
    """At most `size` tokens: special ones, characters, whole words and '##' pieces.

    Every character of `texts` is a token, so that no word made of them is ever [UNK]; letters also
    as '##' pieces. The room left goes to whole words, most frequent first, then to endings that
    many words share. Raises UserError where `size` does not hold the characters.
    """
    counts = Counter(word for text in texts for word in words(text))
    characters, letters = Counter(), Counter()
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


def _by_frequency(counts: dict) -> list:
    """Most frequent first, equals in alphabetical order: the same texts give the same ids."""
    return sorted(counts, key=lambda token: (-counts[token], token))


def read_texts(path: str) -> Iterator[str]:
    """The texts of a file: captions and tags of an official TSV, else every line.

    A file counts as TSV by its name, `.tsv`; its columns are text, image id, base64 and tags.
    Raises UserError where it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            for line in file:
                if Path(path).suffix == ".tsv":
                    columns = line.rstrip("\r\n").split("\t")
                    yield columns[0]
                    yield from columns[3:4]  # their separator is punctuation, so a word of its own
                else:
                    yield line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
