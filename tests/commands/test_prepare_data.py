"""tools/prepare_data.py: its arguments, and vocabularies from every kind of file."""

import json
import pickle
import subprocess
import sys
import time

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ernie_vil2 import cli
from ernie_vil2.data import vocab
from ernie_vil2.data.tokenize import Tokenizer
from tests.support.paths import ROOT
from tests.support.tars import write_tar
from tools.prepare_data import main

TOOL = ROOT / "tools" / "prepare_data.py"


def test_wrong_arguments(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert cli.run(main, ["emoji", "--out", out, "--languages", "eng"]) == 2
    assert 'did you mean "en"' in capsys.readouterr().err
    assert cli.run(main, ["vocab", "--out", out, "--input", str(tmp_path / "no.txt")]) == 2
    assert "no.txt" in capsys.readouterr().err
    for wrong in (["emoji", "--out", out, "--limit", "0"], ["emoji"], [], ["emojis"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2


def test_help_is_quick(tmp_path):
    start = time.monotonic()
    command = [sys.executable, str(TOOL), "emoji", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--packages" in done.stdout and time.monotonic() - start < 1


def test_vocab_from_text_and_tsv(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Walking talking walking\n一只猫 walks\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("the dog\tid\tzzzz\truns|跑\n" * 3, encoding="utf-8")
    inputs = [str(tmp_path / name) for name in ("a.txt", "b.tsv")]
    out = tmp_path / "deep" / "vocab.txt"
    assert cli.run(main, ["vocab", "--out", str(out), "--input", *inputs]) == 0
    tokens = out.read_text(encoding="utf-8").splitlines()
    assert tuple(tokens[:5]) == vocab.SPECIAL_TOKENS and len(set(tokens)) == len(tokens)
    assert {"walking", "the", "dog", "runs", "猫", "跑", "|", "##g", "w"} <= set(tokens)
    assert not {"zzzz", "id", "##猫", "z"} & set(tokens)
    # the tokenizer knows each word, and a word never seen that is made of known letters
    ids = Tokenizer(str(out), max_len=16)(["Walking 一只猫 the dog", "dogs", "zebra"])
    names = [[tokens[i] for i in row if i] for row in ids]
    assert names[0] == ["[CLS]", "walking", "一", "只", "猫", "the", "dog", "[SEP]"]
    assert names[1] == ["[CLS]", "dog", "##s", "[SEP]"]
    assert names[2] == ["[CLS]", "[UNK]", "[SEP]"]
    # the most frequent words come first where not all fit
    characters = sum(len(token.lstrip("#")) == 1 for token in tokens) + 5
    assert (
        cli.run(
            main, ["vocab", "--out", str(out), "--size", str(characters + 1), "--input", *inputs]
        )
        == 0
    )
    assert out.read_text(encoding="utf-8").splitlines()[characters:] == ["dog"]
    capsys.readouterr()
    assert cli.run(main, ["vocab", "--out", str(out), "--size", "9", "--input", *inputs]) == 2
    assert "raise --size" in capsys.readouterr().err


@pytest.fixture
def tokens_of(tmp_path):
    """Makes a vocabulary of these files and options, and returns its tokens."""

    def make(*arguments):
        out = tmp_path / "made" / "vocab.txt"
        assert cli.run(main, ["vocab", "--out", str(out), "--input", *map(str, arguments)]) == 0
        return out.read_text(encoding="utf-8").splitlines()

    return make


SIGNS = ["5°C", "cafe→bar", "a😀b", "cd™", "5€", "x²+y²", "№5", "a\u200bb", "naïve​É", "µm", "한국"]


@pytest.mark.parametrize("text", [*SIGNS, " ".join(SIGNS), "".join(SIGNS)])
def test_nothing_is_unknown_under_a_vocabulary_made_of_it(tokens_of, tmp_path, text):
    path = tmp_path / "texts.txt"
    path.write_text(text, encoding="utf-8")
    tokens_of(path)
    tokenizer = Tokenizer(str(tmp_path / "made" / "vocab.txt"), max_len=100)
    for given in (text, text[::-1]):
        (ids,) = tokenizer([given])
        assert tokenizer.unk_id not in ids[: (ids != 0).sum()], tokenizer.decode(ids)


def test_vocab_of_every_format_that_training_reads(tokens_of, tmp_path):
    clip = {"text_id": 7, "text": "一只猫 clip", "image_ids": [1]}
    folder = {"image": "a/picture.png", "captions": ["zwei", "drei"], "tags": ["katze"], "id": "no"}
    coco = {
        "images": [{"id": 1, "file_name": "unread.png"}],
        "annotations": [{"image_id": 1, "caption": "coco speaks"}],
    }
    sentences = [{"raw": "karpathy says", "tokens": ["unread"]}]
    karpathy = {"images": [{"filename": "unread.png", "split": "val", "sentences": sentences}]}
    for name, content in {
        "train_texts.jsonl": json.dumps(clip),
        "rows.jsonl": json.dumps(folder),
        "captions_val.json": json.dumps(coco),
        "dataset_flickr.json": json.dumps(karpathy),
        "official.TSV": "the dog\tunread\tAAAA\truns|跑",
        "prose.txt": "plain words",
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    record = [("k.jpg", b"unread"), ("k.json", {"tags": ["sonne"]}), ("k.txt", b"tar talks")]
    write_tar(tmp_path / "full.tar", *record, ("bad.jpg", b"unread"))
    write_tar(tmp_path / "empty.tar")
    pairs = {"image": [b"unread"], "caption": ["arrow flies"], "image_id": ["unread"]}
    with pa.ipc.new_file(str(tmp_path / "valid.arrow"), pa.table(pairs).schema) as writer:
        writer.write_table(pa.table(pairs))
    columns = pa.table({"key": ["unread"], "txt": ["parquet floor"], "tags": [["oak"]]})
    pq.write_table(columns, tmp_path / "texts.parquet")  # as no reader of pictures would take it
    with lmdb.open(str(tmp_path / "pairs")) as database, database.begin(write=True) as rows:
        rows.put(b"0", pickle.dumps(("unread", 7, "lmdb pair")))
        rows.put(b"num_samples", b"1")
    files = [*tmp_path.glob("*.*"), tmp_path / "pairs" / "data.mdb"]
    words = {token for token in tokens_of(*files) if len(token) > 1}
    words -= {token for token in words if token.startswith(("[", "##"))}
    expected = "clip zwei drei katze coco speaks karpathy says the dog runs plain words "
    expected += "tar talks sonne arrow flies parquet floor oak lmdb pair"
    assert words == set(expected.split())


@pytest.mark.parametrize(
    "name,content,said",
    [
        ("train_imgs.tsv", b"1\tAAAA\n2\tAAAA\n", "2 columns, expected text, image id, base64"),
        ("rows.jsonl", b'{"url": "x", "alt": "y"}\n', 'rows with "image" and "captions"'),
        ("list.jsonl", b"[1, 2]\n", 'rows with "image" and "captions"'),
        ("prose.jsonl", b"some words\n", 'rows with "image" and "captions"'),
        ("config.json", b'{"a": [1]}', 'neither "annotations" nor "images"'),
        ("list.json", b"[1]", "is no JSON object"),
        ("prose.txt", b"a\xff", "is no text in UTF-8"),
        ("prose.txt", b"a\0b", "is no text: it holds NUL"),
        ("prose.txt", b"\n", "hold no word"),
        ("train.parquet", b"PAR1", "is damaged or no Parquet file"),
        ("train.arrow", b"ARROW1", "is damaged or no Arrow file"),
        ("data.mdb", b"", "is damaged or no LMDB"),
        ("noname", b"words", "expected .tar, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_vocab_refuses_what_it_cannot_read(tmp_path, capsys, name, content, said):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "vocab.out"
    assert cli.run(main, ["vocab", "--out", str(out), "--input", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not out.exists()


def test_vocab_leaves_bad_rows_out_and_says_so(tokens_of, tmp_path, logged):
    (tmp_path / "a.tsv").write_text("dog\tid\tAAAA\nunread\nthe cat\tid\tAAAA\n")
    tokens = tokens_of(tmp_path / "a.tsv")
    assert {"dog", "the", "cat"} <= set(tokens) and "unread" not in tokens
    assert "1 of 3 rows are no records" in logged.text and "a.tsv:2" in logged.text


def test_vocab_of_a_tsv_with_further_columns_of_texts(tokens_of, tmp_path, capsys):
    """As mixtures read it: what stands behind the tags is texts, of which some are blank."""
    rows = ["\t".join(["dog", "id", "AAAA", "oak|elm", alt, "runs"]) for alt in ("hound", "")]
    (tmp_path / "a.tsv").write_text("\n".join(["blank", *rows, "cat\tid\tAAAA"]) + "\n")
    tokens = tokens_of(tmp_path / "a.tsv")
    assert {"dog", "oak", "elm", "hound", "runs"} <= set(tokens)
    assert not {"id", "cat", "aaaa"} & set(tokens)  # a row of other columns is no record
    # a tab within a text does not turn the base64 into a text
    (tmp_path / "b.tsv").write_text("dog\tid\tAAAA\noh\tno\tid\tZZZZ\tx\ncat\tid\tAAAA\n")
    tokens = tokens_of(tmp_path / "b.tsv")
    assert {"dog", "cat"} <= set(tokens) and not {"oh", "no", "zzzz"} & set(tokens)


def test_vocab_does_not_replace_its_own_input(tmp_path, capsys):
    path = tmp_path / "texts.txt"
    path.write_text("words")
    (tmp_path / "link.txt").symlink_to(path)
    for out in (path, tmp_path / "link.txt"):
        assert cli.run(main, ["vocab", "--out", str(out), "--input", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is also an --input" in line and path.read_text() == "words"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit")
def test_vocab_of_words_and_lines_of_any_length(tmp_path):
    """A word's endings are as many as its letters, so of a long one they took its square."""
    path, out = tmp_path / "long.txt", tmp_path / "vocab.txt"
    letters = "abcdefghij" * 3000
    path.write_text(f"short {letters} words\n" + letters * 100 + " " + "word, " * 50_000)
    run = (
        "import resource, sys; from ernie_vil2.commands import prepare_data\n"
        "from ernie_vil2.data import vocab  # loaded before it is measured\n"
        "from ernie_vil2.data.formats import rows, texts\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); prepare_data.main(sys.argv[1:]); print((peak() - before) // 1024)"
    )
    command = [sys.executable, "-c", run, "vocab", "--out", str(out), "--input", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 60, done.stdout
    tokens = out.read_text().splitlines()
    assert {"short", "words", "word", ","} <= set(tokens) and max(map(len, tokens)) < 10
