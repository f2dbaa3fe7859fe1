"""tools/prepare_data.py: the emoji set from the real packages, and vocabularies."""

import base64
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from ernie_vil2 import cli
from ernie_vil2.data import vocab
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.demo import emoji, npm
from ernie_vil2.errors import UserError
from tests.support.paths import ROOT

TOOL = ROOT / "tools" / "prepare_data.py"
CACHE = ROOT / "data" / ".cache"
PACKAGES = (*emoji.FOLDERS, emoji.NAMES)
# 158 MB to download, once
needs_packages = (
    (lambda test: test)
    if all((CACHE / package.filename).is_file() for package in PACKAGES)
    else pytest.mark.slow
)
LIMIT = 20


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def emoji_set(main, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "emoji"
    assert cli.run(main, ["emoji", "--out", str(out), "--limit", str(LIMIT)]) == 0
    return out


def decode(record) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_UNCHANGED)


@needs_packages
def test_emoji_rows(emoji_set):
    train = list(build_reader("tsv", path=str(emoji_set / "train.tsv")))
    test = list(build_reader("tsv", path=str(emoji_set / "test.tsv")))
    assert len(train) == LIMIT * 2 * 2 and len(test) == LIMIT * 2
    assert [r.id for r in train[:4]] == ["google/1f600"] * 2 + ["twitter/1f600"] * 2
    assert [r.captions for r in test[:2]] == [("嘿嘿",), ("grinning face",)]
    assert "笑脸" in test[0].tags and "smile" in test[1].tags
    makers = Counter(r.id.split("/")[0] for r in train + test)
    assert makers == {"google": LIMIT * 2, "twitter": LIMIT * 2, "fluent": LIMIT * 2}
    # the same names in both splits, in the same order
    assert [r.captions for r in test] == [r.captions for r in train if "google" in r.id]
    for record in train:
        assert record.tags and decode(record).shape[:2] == (64, 64)
    for record in test:
        picture = decode(record)
        assert picture.shape == (72, 72, 4) and picture.dtype == np.uint8
        alpha = picture[..., 3]
        assert alpha[0, 0] == 0 and alpha[36, 36] == 255
    # a grinning face is yellow (BGR), whoever draws it, and its edge is not darkened by the outside
    for record in (train[0], train[2], test[0]):
        blue, green, red = decode(record)[20:44, 20:44, :3].mean(axis=(0, 1))
        assert red > green > blue and red > 180 and blue < 140
    edge = decode(test[0])
    edge = edge[(edge[..., 3] > 20) & (edge[..., 3] < 200)]
    assert edge[:, 2].mean() > 180


@needs_packages
def test_emoji_vocabulary_knows_every_word(emoji_set):
    tokens = (emoji_set / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(tokens[:5]) == vocab.SPECIAL_TOKENS and len(set(tokens)) == len(tokens)
    texts = []
    for record in build_reader("tsv", path=str(emoji_set / "train.tsv")):
        texts += [*record.captions, *record.tags]
    texts += ["该图片包含：高兴，笑", "The picture contains smile, face"]
    ids = Tokenizer(str(emoji_set / "vocab.txt"), max_len=48)(texts)
    assert (ids[:, 0] == tokens.index("[CLS]")).all()
    assert not (ids == tokens.index("[UNK]")).any()
    # all words fit, so each is one token: no piece was needed
    used = {tokens[i] for i in np.unique(ids)}
    assert not [token for token in used if token.startswith("##")] and "grinning" in used


@needs_packages
def test_emoji_attribution(emoji_set):
    text = (emoji_set / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for package in PACKAGES:
        assert f"{package.name} {package.version}" in text
    for said in ("Noto Emoji", "Apache License 2.0", "Twemoji", "Creative Commons Attribution 4.0"):
        assert said in text
    assert "Microsoft" in text and "Miles Johnson" in text and text.count("Permission is") == 3


@needs_packages
def test_emoji_is_made_once(main, emoji_set, tmp_path, capsys):
    def times():
        return {path.name: path.stat().st_mtime_ns for path in emoji_set.glob("*.*")}

    command = ["emoji", "--out", str(emoji_set), "--limit", str(LIMIT)]
    before = times()
    # what is there needs neither packages nor network
    assert cli.run(main, [*command, "--packages", str(tmp_path)]) == 0
    assert times() == before
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and f"{LIMIT} emoji" in output and "train.tsv" in output
    # another set, or a damaged one, is not taken for it
    for arguments in (["--limit", "5"], ["--limit", str(LIMIT), "--languages", "en"]):
        other = ["emoji", "--out", str(emoji_set), *arguments, "--packages", str(tmp_path)]
        assert cli.run(main, other) == 2
        assert "npm pack" in capsys.readouterr().err
    (emoji_set / "vocab.txt").write_text("")
    assert cli.run(main, [*command, "--packages", str(tmp_path)]) == 2


@needs_packages
def test_a_damaged_package_is_refused(main, tmp_path, capsys):
    for package in PACKAGES:
        (tmp_path / package.filename).write_bytes(b"not the tarball")
    command = ["emoji", "--out", str(tmp_path / "out"), "--packages", str(tmp_path)]
    assert cli.run(main, command) == 2
    assert "is not the published" in capsys.readouterr().err


def test_no_network_is_one_line(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(npm, "ATTEMPTS", 1)
    # nothing listens there, for npm or for the pip that would bring it
    for variable in ("npm_config_registry", "PIP_INDEX_URL"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert cli.run(main, ["emoji", "--out", str(out), "--cache", str(cache)]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert "check the network" in line and "--packages" in line
    assert not out.exists() and not list(cache.iterdir())


def test_wrong_arguments(main, tmp_path, capsys):
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


def test_only_wanted_regular_files_are_read_from_a_tarball(tmp_path):
    path = tmp_path / "hostile-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as tar:

        def add(name, content=b"", **fields):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))

        add("package/img/a.png", b"good")
        add("package/img/link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("package/img/hard.png", type=tarfile.LNKTYPE, linkname="../../secret")
        add("package/img", type=tarfile.DIRTYPE)
        add("package/../../evil.png", b"evil")
        add("/etc/evil.png", b"evil")
        add("package/other.txt", b"unwanted")
        add("package/img/huge.png", b"\0" * (npm.MAX_MEMBER_BYTES + 1))
    assert npm.read_members(path, lambda n: n.startswith("img/")) == {"img/a.png": b"good"}
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    package = npm.Package("hostile", "1.0.0", integrity)
    # what is in the cache is not downloaded again
    assert npm.fetch(package, tmp_path) == npm.check_given(package, tmp_path) == path
    assert npm.Package("@a/b-c", "2.0.0", "").filename == "a-b-c-2.0.0.tgz"


def test_vocab_from_text_and_tsv(main, tmp_path, capsys):
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


def test_vocab_endings_that_many_words_share():
    texts = ["baking making taking waking raking bake"]
    assert {"##aking", "##king", "##ing"} <= set(vocab.build_vocab(texts, 100))
    assert "##aking" not in vocab.build_vocab(["baking making"], 100)
    assert vocab.build_vocab(texts, 100) == vocab.build_vocab(texts, 100)
    with pytest.raises(UserError, match="no word"):
        vocab.build_vocab(["\n"], 100)


@pytest.fixture
def tokens_of(main, tmp_path):
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
    words = {token for token in tokens_of(*tmp_path.glob("*.*")) if len(token) > 1}
    words -= {token for token in words if token.startswith(("[", "##"))}
    expected = "clip zwei drei katze coco speaks karpathy says the dog runs plain words"
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
        ("train.parquet", b"PAR1", "expected .tsv, .jsonl, .json, or .txt"),
        ("noname", b"words", "expected .tsv, .jsonl, .json, or .txt"),
    ],
)
def test_vocab_refuses_what_it_cannot_read(main, tmp_path, capsys, name, content, said):
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


def test_vocab_does_not_replace_its_own_input(main, tmp_path, capsys):
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
