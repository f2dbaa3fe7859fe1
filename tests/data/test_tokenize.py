import json
import pickle
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError

SMALL = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "a",
    "red",
    "##d",
    "##der",
    "sky",
    ",",
    "狗",
    "的",
    "Red",
]
ALPHABET = [
    *range(0x20, 0x250),
    *range(0x300, 0x370),  # combining accents
    *range(0x370, 0x500),  # Greek, Cyrillic
    *range(0x5D0, 0x6FF),  # Hebrew, Arabic
    *range(0xE00, 0xE80),  # Thai
    *range(0x1100, 0x1200),  # Hangul
    *range(0x1E00, 0x2100),  # accented Latin, spaces, punctuation
    *range(0x2150, 0x2470),  # numerals, arrows, mathematics
    *range(0x3000, 0x3100),  # CJK punctuation, kana
    *range(0x4E00, 0x4F00),
    *range(0xAC00, 0xAC80),
    *range(0xD800, 0xD810),  # lone surrogates
    *range(0xE000, 0xE010),  # private
    *range(0xF900, 0xF920),
    *range(0xFF00, 0xFFF0),  # full-width
    *(0xFEFF, 0xFFFD, 0xFFFE, 0x20000, 0x2B740, 0xE0001, 0x10FFFF),
    *range(0x1F300, 0x1F650),  # emoji
]


def texts(words, count):
    """Strings of vocabulary words, odd characters, spaces and special cases, mixed at random."""
    rng = random.Random(0)
    cases = ["[MASK]", "[CLS]", "[UNK]", "[PAD]", "ΟΔΟΣ", "İstanbul", "ﬁ", "2022年", "3.14", "##s"]
    cases += ["x" * n for n in (99, 100, 101, 300)]
    cases += [unicodedata.normalize(form, "naïve café Å 각 ệ") for form in ("NFC", "NFD")]
    makers = [
        lambda: rng.choice(words).replace("##", ""),
        lambda: rng.choice(words).title(),
        lambda: "".join(chr(rng.choice(ALPHABET)) for _ in range(3)),
        lambda: rng.choice(" \t\n\r\u00a0\u2003\u2028\u3000\x00\x1c\x7f\u200b\u200d\ufe0f.,!-"),
        lambda: rng.choice(cases),
    ]
    return ["".join(rng.choice(makers)() for _ in range(rng.randint(0, 14))) for _ in range(count)]


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(SMALL) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def official(fixtures_dir):
    return fixtures_dir / "ernie_3.0_base_vocab.txt"


@pytest.fixture(scope="module")
def one_column(official, tmp_path_factory):
    """The same vocabulary as PaddleNLP reads it: one token a line, without ids."""
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    lines = official.read_text(encoding="utf-8").split("\n")
    path.write_text("".join(line.split("\t")[0] + "\n" for line in lines), encoding="utf-8")
    return path


# -- Against the official code and PaddleNLP -------------------------------------------------------


def test_ids_equal_the_official_tokenizers(fixtures_dir, official):
    cases = json.loads((fixtures_dir / "official_preprocess" / "tokens.json").read_text("utf-8"))
    ids = Tokenizer(official, max_len=48)([case["text"] for case in cases])
    assert ids.dtype == np.int64 and len(cases) > 10
    np.testing.assert_array_equal(ids, [case["input_ids"] for case in cases])


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_equal_those_of_paddlenlps_parts(one_column, monkeypatch, lowercase):
    """PaddleNLP's two steps, less its one addition to them: it splits at symbols, too."""
    from paddlenlp.transformers import BasicTokenizer, WordpieceTokenizer
    from paddlenlp.transformers.bert import tokenizer as module

    monkeypatch.setattr(module, "_is_symbol", lambda char: False)
    ours = Tokenizer(one_column, lowercase=lowercase)
    basic, wordpiece = BasicTokenizer(lowercase), WordpieceTokenizer(ours.vocab, "[UNK]")
    for text in [*texts(list(ours.vocab), 3000), *(f"a{chr(c)}b{chr(c)}" for c in ALPHABET)]:
        words = basic.tokenize(text)
        tokens = [token for word in words for token in wordpiece.tokenize(word)]
        expected = [ours.vocab[token] for token in tokens]
        assert ours._encode(text) == expected, ascii(text)
        assert ours.count(text) == len(expected)


def test_ids_equal_ernie_tokenizers_where_that_equals_the_official(one_column):
    from paddlenlp.transformers import ErnieTokenizer

    theirs, ours = ErnieTokenizer(str(one_column)), Tokenizer(one_column)
    extra = set("º²µ〇ŋ")  # which it counts among the symbols

    def plain(text):
        decomposed = unicodedata.normalize("NFD", text.lower())
        categories = {unicodedata.category(char)[0] for char in decomposed}
        return not ("S" in categories or "[" in text or "Σ" in text or set(decomposed) & extra)

    chosen = [text for text in texts(list(ours.vocab), 5000) if plain(text)]
    assert len(chosen) > 1000
    expected = theirs(chosen, max_length=48, truncation=True, padding="max_length")["input_ids"]
    np.testing.assert_array_equal(ours(chosen), expected)
    # Where it does not, as the module says: the official tokenizer takes the flag for one word.
    assert theirs("🇨🇳")["input_ids"] == [1, ours.unk_id, ours.unk_id, 2]
    assert ours(["🇨🇳"], pad_to="longest").tolist() == [[1, ours.unk_id, 2]]


def test_the_text_cannot_insert_special_tokens(official):
    tokenizer = Tokenizer(official)
    ids = tokenizer(["a [SEP] b [PAD] [CLS] [MASK]"], pad_to="longest")[0]
    assert not {0, 1, 2, 3} & set(ids[1:-1].tolist())


def test_both_layouts_of_the_file_give_the_same(official, one_column):
    with_ids, without = Tokenizer(official), Tokenizer(one_column)
    assert with_ids.vocab == without.vocab
    assert with_ids.vocab_size == without.vocab_size == 39980
    assert with_ids.vocab["$"] == 18005  # twice in the released file; the last, as in both peers


# -- By hand ---------------------------------------------------------------------------------------


def test_ids_by_hand(vocab):
    tokenizer = Tokenizer(vocab, max_len=8)
    ids = tokenizer(["A redder sky,狗的", "redd RED x reddx", ""])
    assert ids.tolist() == [
        [1, 4, 5, 7, 8, 9, 10, 2],  # cut: 的 has no room, [SEP] has
        [1, 5, 6, 5, 3, 3, 2, 0],
        [1, 2, 0, 0, 0, 0, 0, 0],
    ]
    assert tokenizer.count("A redder sky,狗的") == 7
    assert (tokenizer.vocab_size, tokenizer.vocab_file) == (13, str(vocab))
    assert Tokenizer(vocab, lowercase=False)(["Red RED"], pad_to="longest").tolist() == [
        [1, 12, 3, 2]
    ]


def test_curly_quotes_are_read_as_straight_ones_where_that_is_asked(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text('[PAD]\n[CLS]\n[SEP]\n[UNK]\n"\nred\n', encoding="utf-8")
    straight, as_it_stands = Tokenizer(path, 8, straight_quotes=True), Tokenizer(path, 8)
    assert straight(["“red” ‘", '"red" ‘']).tolist() == [[1, 4, 5, 4, 3, 2, 0, 0]] * 2
    assert as_it_stands(["“red”"]).tolist() == [[1, 3, 5, 3, 2, 0, 0, 0]]


def test_padding(vocab):
    tokenizer = Tokenizer(vocab, max_len=6)
    assert tokenizer(["red sky", "a"], pad_to="longest").tolist() == [[1, 5, 8, 2], [1, 4, 2, 0]]
    assert tokenizer(["a a a a a a"], pad_to="longest").tolist() == [[1, 4, 4, 4, 4, 2]]
    assert tokenizer([]).shape == (0, 6)


def test_a_used_tokenizer_travels_to_another_process(vocab):
    tokenizer = Tokenizer(vocab)
    expected = tokenizer(["redder sky"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tokenizer))(["redder sky"]), expected)


def test_importing_and_using_it_does_not_import_paddle(vocab):
    code = (
        "import sys; from ernie_vil2.data.tokenize import Tokenizer;"
        f"Tokenizer({str(vocab)!r})(['red']);"
        "sys.exit(any(name in sys.modules for name in ('paddle', 'paddlenlp')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ids_of_the_files_second_column_are_kept(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf[PAD]\t0\r\n[CLS]\t7\r\n[SEP]\t9\r\n\r\n[UNK]\t3\r\nred\t20\r\n")
    tokenizer = Tokenizer(path, max_len=4)
    assert tokenizer(["red x y"]).tolist() == [[7, 20, 3, 9]]
    assert tokenizer.vocab_size == 21


# -- The user's mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"lacks \[PAD\], \[CLS\], \[SEP\], \[UNK\]"),
        (b"[PAD]\n[CLS]\n[UNK]\na\n", r"lacks \[SEP\]"),
        (b"[PAD]\n[CLS]\n[SEP]\n[UNK]\n[CLS]\n", r"line 5: \[CLS\] is there a second time"),
        (b"[CLS]\n[PAD]\n[SEP]\n[UNK]\n", r"gives \[PAD\] the id 1: expected 0"),
        (b"[PAD]\n[CLS]\n[SEP]\n[UNK]\na\tb\n", r"line 5: 'a\\tb': expected"),
        (b"[PAD]\n[CLS]\n[SEP]\n[UNK]\na\t1\t2\n", "line 5"),
        (b"\x80\x04\x95 a pickle", "cannot be read as a UTF-8 vocabulary"),
    ],
)
def test_unusable_vocabulary(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Tokenizer(path)
    assert "\n" not in str(error.value)


def test_missing_vocabulary(tmp_path):
    for name in (tmp_path / "absent.txt", tmp_path, "absent.txt", tmp_path / "absent"):
        with pytest.raises(UserError, match=r"no vocabulary file .*expected a file"):
            Tokenizer(name)


def test_released_names(monkeypatch):
    import paddlenlp  # noqa: F401  its import must not see the proxy

    with pytest.raises(UserError, match=r"did you mean .ernie-3\.0-base-zh"):
        Tokenizer("ernie-3.0-base-cn")
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")  # nothing listens there: offline everywhere
    with pytest.raises(UserError, match=r"ernie-gen-large-en-430g cannot be downloaded .*: set"):
        Tokenizer("ernie-gen-large-en-430g")
    with pytest.raises(UserError, match=r"bert-base-chinese cannot be downloaded"):
        Tokenizer("bert-base-chinese")
    with pytest.raises(UserError, match=r"disco_diffusion_ernie_vil-2.0-base-zh cannot be downl"):
        Tokenizer("disco_diffusion_ernie_vil-2.0-base-zh")


def test_wrong_arguments(vocab):
    tokenizer = Tokenizer(vocab)
    with pytest.raises(UserError, match="max_len 2: expected at least 3"):
        Tokenizer(vocab, max_len=2)
    with pytest.raises(UserError, match="text 1 is NoneType, expected str"):
        tokenizer(["a", None])
    with pytest.raises(UserError, match="one str: expected a list"):
        tokenizer("a")
    with pytest.raises(UserError, match='pad_to "min"'):
        tokenizer(["a"], pad_to="min")
