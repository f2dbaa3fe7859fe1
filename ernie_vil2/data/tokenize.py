"""Text to token ids: the official ERNIE-ViL 2.0 tokenizer (BERT's basic tokenizer and WordPiece).

Written here rather than taken from PaddleNLP because importing that takes seconds, in every loader
worker and every server, and because its `ErnieTokenizer` gives other ids than the official code
where a symbol (an emoji, say) touches a letter or another symbol, for `[MASK]` and its like within
a text, and for a Greek final sigma. The official ids are what the released weights were trained on.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.errors import UserError, did_you_mean

CJK = re.compile(  # ideographs, which become words of one character (BERT's ranges)
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MAX_WORD = 100  # characters; a longer word is [UNK]
_CACHED_WORDS = 1 << 16


class Tokenizer:
    """`tokenizer(["a text", ...])` -> int64 [N, max_len]: [CLS] ids [SEP], cut, padded with 0.

    Args:
        vocab_file: a file with one token a line, or `token TAB id`; or a name that PaddleNLP has
            released, such as `ernie-3.0-base-zh`, or `bert-base-chinese` for Chinese-CLIP, whose
            vocabulary is then downloaded.
        max_len: most tokens of a text, [CLS] and [SEP] among them.
        lowercase: lower-case and strip accents, as every released ERNIE wants it.
        straight_quotes: read “ and ” as ", as Chinese-CLIP's training and evaluation do; its
            vocabulary lacks them.

    Attributes:
        vocab: token -> id; of a token given twice the last, as the released vocabularies need it.
        vocab_size: rows that the embedding table must have.
        vocab_file: its path.
        pad_id, cls_id, sep_id, unk_id: ids of the special tokens.

    Raises:
        UserError: a vocabulary that cannot be used.
    """

    def __init__(
        self,
        vocab_file: str | os.PathLike[str],
        max_len: int = 48,
        lowercase: bool = True,
        straight_quotes: bool = False,
    ):
        if max_len < 3:
            raise UserError(f"max_len {max_len}: expected at least 3: [CLS], one token, [SEP]")
        self.max_len = max_len
        self.lowercase = lowercase
        self.straight_quotes = straight_quotes
        self.vocab_file = _find_vocab(os.fspath(vocab_file))
        self.vocab = _read_vocab(self.vocab_file)
        self.vocab_size = max(self.vocab.values()) + 1
        self.pad_id, self.cls_id, self.sep_id, self.unk_id = (self.vocab[t] for t in SPECIAL_TOKENS)
        self._longest = max(map(len, self.vocab))
        self._cache: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str], pad_to: str = "max") -> Numbers:
        """Token ids, int64 [N, L]: L is max_len, or with pad_to="longest" the longest text's."""
        if isinstance(texts, (str, bytes)):
            raise UserError(f"texts is one {type(texts).__name__}: expected a list of str")
        if pad_to not in ("max", "longest"):
            raise UserError(f'pad_to "{pad_to}": expected "max" or "longest"')
        rows = []
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {i} is {type(text).__name__}, expected str")
            rows.append([self.cls_id, *self._encode(text, self.max_len - 2), self.sep_id])
        length = self.max_len if pad_to == "max" else max(map(len, rows), default=2)
        ids = np.full((len(rows), length), self.pad_id, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids

    def count(self, text: str) -> int:
        """The number of tokens of the whole text, without [CLS] and [SEP]."""
        return len(self._encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens of one row, to look at: padding left out, pieces joined."""
        tokens = {id: token for token, id in self.vocab.items()}
        words = [tokens[int(id)] for id in ids if id != self.pad_id]
        return " ".join(words).replace(" ##", "")

    def _encode(self, text: str, limit: int | None = None) -> list[int]:
        if self.straight_quotes:
            text = text.translate(_STRAIGHT)
        ids: list[int] = []
        for chunk in _chunks(text):
            ids += self._chunk_ids(chunk)
            if limit is not None and len(ids) >= limit:
                break
        return ids[:limit]

    def _chunk_ids(self, chunk: str) -> list[int]:
        """Ids of what stands between white space, which nothing else in the text can change."""
        ids = self._cache.get(chunk)
        if ids is None:
            parts = _words_of(chunk, self.lowercase)
            ids = [i for word in parts for i in self._wordpiece(word)]
            if len(chunk) <= MAX_WORD:
                if len(self._cache) >= _CACHED_WORDS:
                    self._cache.clear()
                self._cache[chunk] = ids
        return ids

    def _wordpiece(self, word: str) -> list[int]:
        """Greedy longest match from the left; [UNK] where any part of the word has no match."""
        if len(word) > MAX_WORD:
            return [self.unk_id]
        ids, start, prefix = [], 0, ""
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                token = self.vocab.get(prefix + word[start:end])
                if token is not None:
                    break
            else:
                return [self.unk_id]
            ids.append(token)
            start, prefix = end, "##"
        return ids


def words(text: str, lowercase: bool = True) -> Iterator[str]:
    """The words of a text, which WordPiece then cuts into tokens: BERT's basic tokenizer.

    Each ideograph and each punctuation mark is a word; other symbols belong to what they touch.
    Lower-cased and without accents, unless `lowercase` is False. Control characters are dropped.
    """
    for chunk in _chunks(text):
        yield from _words_of(chunk, lowercase)


def _chunks(text: str) -> list[str]:
    return text.translate(_CLEAN).split()


def _words_of(chunk: str, lowercase: bool) -> list[str]:
    if lowercase:
        chunk = unicodedata.normalize("NFD", chunk.lower()).translate(_STRIP_ACCENTS)
    return chunk.translate(_SPLIT).split()


# -- Characters ------------------------------------------------------------------------------------


class _CharTable(dict[int, str]):
    """A table for str.translate that asks `replace(character)` once for each new character."""

    def __init__(self, replace: Callable[[str], str]):
        self.replace = replace

    def __missing__(self, codepoint: int) -> str:
        self[codepoint] = result = self.replace(chr(codepoint))
        return result


def _clean(char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
        return " "
    if char == "\ufffd" or category[0] == "C":  # controls, surrogates, private and unassigned
        return ""
    return f" {char} " if CJK.match(char) else char


def _split(char: str) -> str:
    # All of ASCII's signs count, though Unicode calls some of them symbols ($, +, <, ^, `, |, ~).
    ascii_sign = "!" <= char <= "~" and not char.isalnum()
    return f" {char} " if ascii_sign or unicodedata.category(char)[0] == "P" else char


_STRAIGHT = str.maketrans("“”", '""')
_CLEAN = _CharTable(_clean)
_SPLIT = _CharTable(_split)
_STRIP_ACCENTS = _CharTable(lambda char: "" if unicodedata.category(char) == "Mn" else char)


# -- Vocabulary ------------------------------------------------------------------------------------


def _find_vocab(name: str) -> str:
    """The path of a vocabulary file: `name` itself, or what PaddleNLP downloads for that name."""
    if os.path.isfile(name):
        return name
    if name.endswith(".txt") or os.path.basename(name) != name or os.path.isdir(name):
        raise UserError(
            f"no vocabulary file {name}: expected a file with one token a line "
            "(tools/prepare_data.py vocab makes one), or a released name as ernie-3.0-base-zh"
        )
    # takes seconds, so only where it is needed
    from paddlenlp.transformers import BertTokenizer, ErnieTokenizer, ErnieViLTokenizer

    kinds = (BertTokenizer, ErnieTokenizer, ErnieViLTokenizer)
    known = {other: kind for kind in kinds for other in kind.pretrained_init_configuration}
    if name not in known:
        raise UserError(
            f"no vocabulary file {name}, and no released ERNIE or BERT has that name"
            + did_you_mean(name, [other for other in known if other.startswith("ernie")])
        )
    try:
        return known[name].from_pretrained(name).init_kwargs["vocab_file"]
    except OSError:
        raise UserError(
            f"the vocabulary of {name} cannot be downloaded (no network?): "
            "set Tokenizer.vocab_file to a vocabulary file"
        ) from None


def _read_vocab(path: str) -> dict[str, int]:
    vocab: dict[str, int] = {}
    try:
        # The file's own iteration, not splitlines(), which would cut at tokens such as U+2028.
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file):
                token, *given = line.strip().split("\t")
                if not token:
                    continue
                if len(given) > 1 or (given and not re.fullmatch("[0-9]{1,9}", given[0])):
                    raise UserError(
                        f"{path}, line {number + 1}: {line.strip()[:60]!r}: "
                        "expected a token, or a token, a tab and its id"
                    )
                if token in SPECIAL_TOKENS and token in vocab:
                    raise UserError(f"{path}, line {number + 1}: {token} is there a second time")
                vocab[token] = int(given[0]) if given else number
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 vocabulary: {error}") from None
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)} among its {len(vocab)} tokens: "
            "expected a vocabulary with one token a line"
        )
    if vocab["[PAD]"] != 0:
        raise UserError(
            f"{path} gives [PAD] the id {vocab['[PAD]']}: expected 0, which the text tower masks"
        )
    return vocab
