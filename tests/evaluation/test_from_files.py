"""What others wrote is read, scored as they score it, and what we write are their files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2 import cli
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.from_files import evaluate_files
from ernie_vil2.evaluation.official_dump import official_table, read_dump, write_dump
from ernie_vil2.evaluation.outputs import Outputs
from tests.support.paths import ROOT
from tools import eval as eval_tool

PEERS = Path(__file__).with_name("peers")
DUMP, ANSWERS = PEERS / "cross_modal_embeddings.out", PEERS / "valid_texts.jsonl"
FEATURES = [PEERS / "valid_imgs.img_feat.jsonl", PEERS / "valid_texts.txt_feat.jsonl"]
PREDICTIONS = [PEERS / "valid_predictions.jsonl", PEERS / "valid_tr_predictions.jsonl"]

# printed by the official eval_retri.py of the dump
TABLE = """\
| Name       |   R@1 |   R@5 |   R@10 |   meanRecall |
|------------|-------|-------|--------|--------------|
| Text2Image |  5.00 | 20.00 |  55.00 |        26.67 |
| Image2Text |  5.00 | 25.00 |  50.00 |        26.67 |
| MeanRecall |  5.00 | 22.50 |  52.50 |        26.67 |"""
# written by evaluation.py and evaluation_tr.py, of Chinese-CLIP and PaddleNLP alike
SCORES = [
    {
        "success": True,
        "score": 22.98850574712644,
        "scoreJson": {
            "score": 22.98850574712644,
            "mean_recall": 22.98850574712644,
            "r1": 6.896551724137931,
            "r5": 24.137931034482758,
            "r10": 37.93103448275862,
        },
    },
    {
        "success": True,
        "score": 20.833333333333336,
        "scoreJson": {
            "score": 20.833333333333336,
            "mean_recall": 20.833333333333336,
            "r1": 6.25,
            "r5": 25.0,
            "r10": 31.25,
        },
    },
]


def run(*argv) -> int:
    return cli.run(eval_tool.main, [str(part) for part in argv])


def scores(path: Path) -> list:
    return [json.loads(p.read_text()) for p in (path, path.with_name(f"{path.stem}.tr.json"))]


def test_the_official_dump_is_scored_as_the_official_script_does(capsys, tmp_path):
    assert run("--read", DUMP, "--out", tmp_path, "-o", "Metric.bootstrap=0") == 0
    assert TABLE in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"] == "official" and report["text_to_image"]["queries"] == 20
    report["text_to_image"]["R@1"] = 1.0  # the table widens as theirs does
    assert "|   R@1 |" not in official_table(report) and "| 100.00 |" in official_table(report)


def test_a_dump_of_ours_is_theirs_to_the_byte(tmp_path):
    assert write_dump(tmp_path / "new" / "a.out", read_dump(DUMP)) == 20
    assert (tmp_path / "new" / "a.out").read_bytes() == DUMP.read_bytes()


def test_an_image_of_several_texts_has_a_line_for_each(tmp_path):
    embeddings = read_dump(DUMP)._replace(images_of_text=[[1], [], [2, 0], *[[1]] * 17])
    assert write_dump(tmp_path / "a.out", embeddings) == 20
    pairs = read_dump(tmp_path / "a.out")
    np.testing.assert_array_equal(pairs.image_embeds[:3], embeddings.image_embeds[[1, 2, 0]])
    np.testing.assert_array_equal(pairs.text_embeds[:3], embeddings.text_embeds[[0, 2, 2]])
    with pytest.raises(UserError, match="a dump is made of pairs"):
        write_dump(tmp_path / "a.out", embeddings._replace(images_of_text=[[]] * 20))


@pytest.mark.parametrize("files", [FEATURES, FEATURES[::-1]])
def test_features_are_scored_and_searched_as_their_scripts_do(files, tmp_path):
    found, score = tmp_path / "valid.jsonl", tmp_path / "score.json"
    options = ["--answers", ANSWERS, "--predictions", found, "--score", score]
    assert run("--read", *files, *options, "--features", tmp_path / "again") == 0
    assert scores(score) == SCORES
    assert found.read_bytes() == PREDICTIONS[0].read_bytes()
    assert (tmp_path / "valid.tr.jsonl").read_bytes() == PREDICTIONS[1].read_bytes()
    for theirs, name in zip(FEATURES, ("imgs.img_feat", "texts.txt_feat")):
        assert (tmp_path / f"again_{name}.jsonl").read_bytes() == theirs.read_bytes()


def test_predictions_are_scored_as_their_scripts_do(tmp_path, capsys):
    score = tmp_path / "score.json"
    assert run("--read", *PREDICTIONS, "--answers", ANSWERS, "--score", score) == 0
    assert scores(score) == SCORES
    assert "Image to text, 32 queries: R@1 6.2 %, R@5 25.0 %" in capsys.readouterr().out
    assert run("--read", PREDICTIONS[1], "--answers", ANSWERS, "--score", tmp_path / "b.json") == 0
    assert (tmp_path / "b.tr.json").is_file() and not (tmp_path / "b.json").exists()


def test_a_comparison_that_can_fail(tmp_path):
    """Answers of other images have other scores; another protocol has other recalls."""
    lines = [json.loads(line) for line in ANSWERS.read_text().splitlines()]
    for line, other in zip(lines, lines[1:] + lines[:1]):
        line["image_ids"] = other["image_ids"]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = evaluate_files(PREDICTIONS[:1], tmp_path / "texts.jsonl")
    assert 100 * report["text_to_image"]["R@10"] != SCORES[0]["scoreJson"]["r10"]
    options = ["Metric.protocol=official", "Metric.bootstrap=0"]
    report = evaluate_files(FEATURES, ANSWERS, overrides=options)
    assert report["protocol"] == "official"
    assert 100 * report["text_to_image"]["R@10"] != SCORES[0]["scoreJson"]["r10"]


def test_it_needs_no_paddle():
    code = (
        "import sys; sys.modules['paddle'] = None\n"
        "from ernie_vil2.commands.eval import main\n"
        f"sys.exit(main(['--read', {str(DUMP)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert TABLE in done.stdout


def changed(path: Path, source: Path, line: int, change) -> Path:
    lines = source.read_text().splitlines()
    lines[line] = change(lines[line])
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda line: line.partition("\t")[0], "1 columns"),
        (lambda line: line.replace(" ", " x", 1), "could not convert"),
        (lambda line: line.partition(" ")[2], "7 and 8 numbers"),
        (lambda line: "\t\t1", "0 and 0 numbers"),
    ],
)
def test_a_line_that_is_none_of_a_dump(tmp_path, change, said):
    path = changed(tmp_path / "a.out", DUMP, 2, change)
    with pytest.raises(UserError) as error:
        read_dump(path)
    assert f"{path}:3: " in str(error.value) and said in str(error.value)


@pytest.mark.parametrize(
    "source, change, said",
    [
        (0, lambda line: "{", "imgs.jsonl:3: no JSON"),
        (0, lambda line: "[1]", "imgs.jsonl:3: a JSON list, no object"),
        (0, lambda line: '{"image_id": 1}', '"feature" is missing or not 8 numbers'),
        (0, lambda line: '{"image_id": 1, "feature": [1, "a"]}', "not 8 numbers"),
        (0, lambda line: '{"image_id": 1, "feature": [1, 2]}', "not 8 numbers as in line 1"),
        (0, lambda line: line.replace("image_id", "id"), '"image_id" is missing or no id'),
        (0, lambda line: '{"image_id": 1, "feature": [1,2,3,4,5,6,7,8]}', "no feature of image_id"),
        (1, lambda line: line.replace("text_id", "text"), '"text_id" is missing or no id'),
        (2, lambda line: line.replace("image_ids", "ids"), '"image_ids" is missing or no list'),
        (2, lambda line: line.replace("[", "[[0],"), '"image_ids" is missing or no id'),
        (2, lambda line: '{"text_id": 1, "image_ids": []}', None),
    ],
)
def test_a_line_that_is_none_of_features_or_answers(tmp_path, source, change, said):
    files = [tmp_path / name for name in ("imgs.jsonl", "txts.jsonl", "answers.jsonl")]
    for number, (path, original) in enumerate(zip(files, [*FEATURES, ANSWERS])):
        changed(path, original, 2, change if number == source else str)
    if said is None:
        with pytest.raises(UserError, match="no feature of text_id 1, which"):
            evaluate_files(files[:2], files[2])
        return
    with pytest.raises(UserError) as error:
        evaluate_files(files[:2], files[2])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_files_that_do_not_belong_together(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "empty.jsonl").write_text("")
    nine = changed(
        tmp_path / "nine.jsonl", PREDICTIONS[0], 0, lambda line: line.rpartition(",")[0] + "]}"
    )
    for files, answers, said in (
        (FEATURES, None, "add --answers"),
        (FEATURES[:1], ANSWERS, "expected a dump, or features of images and of texts"),
        ([*FEATURES, DUMP], ANSWERS, "expected a dump, or features of images and of texts"),
        ([FEATURES[0], FEATURES[0]], ANSWERS, "are features of images both: name one"),
        ([DUMP], ANSWERS, "leave --answers out"),
        ([tmp_path / "other.jsonl"], ANSWERS, "has the keys id: expected"),
        ([tmp_path / "empty.jsonl"], None, "is empty"),
        (PREDICTIONS, None, "add --answers"),
        ([nine], ANSWERS, "has 9 different image_ids for text_id"),
    ):
        with pytest.raises(UserError) as error:
            evaluate_files(files, answers)
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="no embeddings: of predictions only a score"):
        evaluate_files(PREDICTIONS, ANSWERS, outputs=Outputs(dump="a.out"))
    with pytest.raises(UserError, match="does not hold the texts of the queries"):
        evaluate_files(FEATURES, ANSWERS, outputs=Outputs(muge="a.jsonl"))


def test_options_that_contradict_one_another(capsys):
    for argv, said in (
        (["--read", DUMP, "-w", "run"], "name one of them"),
        (["--read", DUMP, "--official", "a.yaml"], "name one of them"),
        (["-c", "demo"], "-w is missing"),
        (["-w", "run"], "-c is missing"),
        (["-c", "demo", "-w", "run", "--answers", ANSWERS], "--answers belongs to --read"),
        (["--read", "nothing.out"], "nothing.out"),
    ):
        assert run(*argv) == 2
        assert said in capsys.readouterr().err
