"""Tags of a file in place of a set's own: any format, looked up by id."""

import json
import pickle

import numpy as np
import pytest

from ernie_vil2.config.load import load_config
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.mixture import MixtureReader
from ernie_vil2.data.formats.tagged import TagsFile
from ernie_vil2.data.formats.texts import read_texts
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.loader import TrainingViews
from ernie_vil2.data.records import BadRecord
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.errors import UserError
from tests.support.paths import ROOT
from tests.support.shapes import write_set


@pytest.fixture
def data(tmp_path):
    write_set(tmp_path / "a.tsv", copies=1, seed=0)
    return tmp_path


def write_tags(path, rows):
    lines = [json.dumps({"id": i, "tags": tags, "from": "test"}) + "\n" for i, tags in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def test_tags_replace_those_of_the_set(data):
    plain = build_reader("tsv", path=str(data / "a.tsv"))
    ids = [record.id for record in plain]
    rows = [(ids[3], ["猫", "dog"]), ("of no record", ["x"]), (ids[0], ["b"]), (ids[0], ["c", "b"])]
    tags = write_tags(data / "tags.jsonl", rows)
    reader = build_reader("tsv", path=str(data / "a.tsv"), tags_file=tags)
    assert len(reader) == len(plain)
    expected = {0: ("b", "c"), 3: ("猫", "dog")}  # of several lines all, each tag once
    for read in (reader, pickle.loads(pickle.dumps(reader)), reader.evaluation()):
        for number, record in enumerate(read):
            assert record.tags == expected.get(number, ())  # no line: no tags
            assert (record.id, record.image) == (ids[number], plain[number].image)
            assert (record.captions, record.source) == (plain[number].captions, record.source)


def test_order_and_bad_rows_are_those_of_the_set(data):
    with open(data / "a.tsv", "a") as file:
        file.write("no columns\n")
    plain = build_reader("tsv", path=str(data / "a.tsv"))
    tags = write_tags(data / "tags.jsonl", [("1", ["x"])])
    reader = build_reader("tsv", path=str(data / "a.tsv"), tags_file=[tags])
    positions = np.arange(40)
    for shuffle in (True, False):
        theirs = plain.order(3, shuffle)(positions.copy())
        assert (reader.order(3, shuffle)(positions.copy()) == theirs).all()
    with pytest.raises(BadRecord, match="1 columns") as last:
        reader[len(reader) - 1]
    assert reader.find(last.value.source) == len(reader) - 1


def test_a_mixture_stays_one(data):
    """One file for all sources, whose names stand before the ids, or one for a source."""
    ids = [record.id for record in build_reader("tsv", path=str(data / "a.tsv"))]
    source = {"name": "tsv", "path": str(data / "a.tsv")}
    own = {**source, "tags_file": write_tags(data / "own.jsonl", [(ids[1], ["own"])])}
    rows = [(f"web/{ids[0]}", ["of web"]), (ids[1], ["of nobody"])]
    shared = write_tags(data / "shared.jsonl", rows)
    mixture = build_reader("mixture", sources={"web": source, "b": own})
    assert isinstance(mixture, MixtureReader)
    of_b = {record.id: record.tags for record in mixture if record.data_set == "b"}
    assert of_b == {f"b/{i}": ("own",) if i == ids[1] else () for i in ids}
    both = build_reader("mixture", tags_file=shared, sources={"web": source, "b": source})
    assert isinstance(both, MixtureReader) and isinstance(both.evaluation(), MixtureReader)
    assert {record.id for record in both if record.tags} == {f"web/{ids[0]}"}
    positions = np.arange(64)
    assert (both.order(1, True)(positions) == mixture.order(1, True)(positions)).all()


def test_several_files_and_ids_in_any_order(tmp_path):
    """Against a dictionary."""
    rng = np.random.default_rng(0)
    ids = [str(i) for i in rng.permutation(500)]
    expected = {i: tuple(map(str, rng.integers(0, 9, rng.integers(0, 3)))) for i in ids[:400]}
    expected = {i: tuple(dict.fromkeys(tags)) for i, tags in expected.items()}
    rows = [(i, list(expected[i])) for i in ids[:400]]
    write_tags(tmp_path / "p-0.jsonl", rows[:150])
    write_tags(tmp_path / "p-1.jsonl", rows[150:])
    tags = TagsFile(str(tmp_path / "p-*.jsonl"))
    assert [tags.of(i) for i in ids] == [expected.get(i, ()) for i in ids]


@pytest.mark.parametrize(
    "line",
    ["[1]", "{}", '{"id": 1}', '{"id": 1, "tags": "a|b"}', '{"id": 1, "tags": [2]}', "", "{"],
)
def test_other_lines_are_one_clear_error(tmp_path, line):
    path = tmp_path / "tags.jsonl"
    path.write_text('{"id": 1, "tags": []}\n' + line + "\n")
    with pytest.raises(UserError, match=r"tags\.jsonl:2: .*expected lines") as caught:
        TagsFile(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        TagsFile(str(tmp_path / "no.jsonl"))


def test_training_sees_them(data):
    """The tag view is a sentence of the file's tags, and the caption where it has none."""
    ids = [record.id for record in build_reader("tsv", path=str(data / "a.tsv"))]
    tags = write_tags(data / "tags.jsonl", [(ids[0], ["zebra"])])
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "sees", "zebra", "red", "circle", "a"]
    (data / "vocab.txt").write_text("\n".join(words))
    tokenizer = Tokenizer(str(data / "vocab.txt"), max_len=8)
    views = ViewMaker(
        ["image1"],
        ["text1"],
        {"tags_prob": 1.0, "per": "sample"},
        {"en": {"template": "sees {}", "separator": ", "}},
        TrainTransform(**{**load_config(ROOT / "configs/base.yaml").Transform, "size": 16}),
        tokenizer,
    )
    reader = build_reader("tsv", path=str(data / "a.tsv"), tags_file=tags)
    training = TrainingViews(reader, views, Ledger(data / "ledger.jsonl"), seed=0)
    texts = [training[0, number, number]["text1"] for number in range(2)]
    assert [words[i] for i in texts[0] if i] == ["[CLS]", "sees", "zebra", "[SEP]"]
    assert "a" in [words[i] for i in texts[1]]


def test_a_vocabulary_takes_them(tmp_path):
    path = write_tags(tmp_path / "tags.jsonl", [("1", ["traffic light", "猫"]), ("2", [])])
    assert list(read_texts(path)) == ["traffic light", "猫"]
