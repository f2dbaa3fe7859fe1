"""The emoji set, made of the real packages by tools/prepare_data.py."""

import json
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
from ernie_vil2.demo.pictures import picture_files
from tests.support.paths import ROOT
from tools.prepare_data import main

CACHE = ROOT / "data" / ".cache"
PACKAGES = (*emoji.FOLDERS, emoji.NAMES)
# 253 MB to download, once
needs_packages = (
    (lambda test: test)
    if all((CACHE / package.filename).is_file() for package in PACKAGES)
    else pytest.mark.slow
)
LIMIT = 20
SINCE_2017 = {"1fae0", "1f970", "1f929"}  # among these emoji: drawn by all but EmojiOne's makers


@pytest.fixture(scope="module")
def emoji_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "emoji"
    assert cli.run(main, ["emoji", "--out", str(out), "--limit", str(LIMIT)]) == 0
    return out


def decode(record) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_UNCHANGED)


@needs_packages
def test_emoji_rows(emoji_set):
    train = list(build_reader("tsv", path=str(emoji_set / "train.tsv")))
    val, test = (
        list(build_reader("tsv", path=str(emoji_set / f"{split}.tsv"))) for split in ("val", "test")
    )
    assert len(train) == LIMIT * 2 * 2 and len(val) == LIMIT * 2
    assert [r.id for r in train[:4]] == ["google/1f600"] * 2 + ["twitter/1f600"] * 2
    for rows in (val, test):
        assert [r.captions for r in rows[:2]] == [("嘿嘿",), ("grinning face",)]
        assert "笑脸" in rows[0].tags and "smile" in rows[1].tags
    makers = Counter(r.id.split("/")[0] for r in [*train, *val, *test])
    of_three = LIMIT * 2
    assert makers == {
        "google": of_three,
        "twitter": of_three,
        "fluent": of_three,
        "emojione": of_three - 2 * len(SINCE_2017),
    }
    # the same names in all splits, in the same order
    assert [r.captions for r in val] == [r.captions for r in train if "google" in r.id]
    then = [r for r in val if r.id.partition("/")[2] not in SINCE_2017]
    assert [r.captions for r in test] == [r.captions for r in then]
    for record in [*train, *test]:
        assert record.tags and decode(record).shape[:2] == (64, 64)
    for record in val:
        picture = decode(record)
        assert picture.shape == (72, 72, 4) and picture.dtype == np.uint8
        alpha = picture[..., 3]
        assert alpha[0, 0] == 0 and alpha[36, 36] == 255
    # a grinning face is yellow (BGR), whoever draws it, and its edge is not darkened by the outside
    for record in (train[0], train[2], val[0], test[0]):
        blue, green, red = decode(record)[20:44, 20:44, :3].mean(axis=(0, 1))
        assert red > green > blue and red > 180 and blue < 140
    edge = decode(val[0])
    edge = edge[(edge[..., 3] > 20) & (edge[..., 3] < 200)]
    assert edge[:, 2].mean() > 180


@needs_packages
def test_the_drawings_of_validation_are_there_as_files(emoji_set):
    lines = (emoji_set / "pictures.jsonl").read_text(encoding="utf-8").splitlines()
    tags = {line["id"]: line["tags"] for line in map(json.loads, lines)}
    files = {p.relative_to(emoji_set / "pictures").as_posix() for p in emoji_set.rglob("*.webp")}
    assert set(tags) == files and len(lines) == LIMIT and "smileys/grinning face.webp" in files
    assert {"笑脸", "smile"} <= set(tags["smileys/grinning face.webp"])
    for record in build_reader("tsv", path=str(emoji_set / "val.tsv")):
        if record.captions[0] in {path[8:-5] for path in files}:  # the English names
            file = emoji_set / "pictures" / f"smileys/{record.captions[0]}.webp"
            picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
            assert picture.shape == (256, 256, 4)
            small = cv2.resize(picture, (72, 72), interpolation=cv2.INTER_AREA)[..., 3]
            assert np.abs(small.astype(int) - decode(record)[..., 3]).max() <= 1


def test_drawings_of_one_name_have_a_file_each():
    same = [(3, "cat/dog", ["tag"], b"1"), (3, "cat/dog", [], b"2"), (4, "cat/dog", [], b"3")]
    files = picture_files(same)
    tags = files.pop("pictures.jsonl").decode().splitlines()
    assert files == {
        "pictures/animals/cat-dog.webp": b"1",
        "pictures/animals/cat-dog 2.webp": b"2",
        "pictures/food/cat-dog.webp": b"3",
    }
    assert [json.loads(line)["id"] for line in tags] == [path[9:] for path in files]


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
    assert "Creative Commons Attribution 4.0 International" in text.split("## emojione")[1]
    assert "Microsoft" in text and "Miles Johnson" in text and text.count("Permission is") == 3


@needs_packages
def test_emoji_is_made_once(emoji_set, tmp_path, capsys):
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
def test_a_damaged_package_is_refused(tmp_path, capsys):
    for package in PACKAGES:
        (tmp_path / package.filename).write_bytes(b"not the tarball")
    command = ["emoji", "--out", str(tmp_path / "out"), "--packages", str(tmp_path)]
    assert cli.run(main, command) == 2
    assert "is not the published" in capsys.readouterr().err


def test_no_network_is_one_line(tmp_path, monkeypatch, capsys):
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
