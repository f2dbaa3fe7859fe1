"""The evaluation command, on sets of one's own: several images a text, bad rows, submissions."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.shapes import COLORS, SHAPES, draw


def test_a_model_trained_in_half_precision_is_evaluated_on_a_cpu_in_float32(evaluate):
    code, expected, _, _ = evaluate("--examples", "0")
    assert code == 0
    half = ["AMP.level=O2", "AMP.dtype=float16"]
    code, report, _, errors = evaluate("--examples", "0", overrides=half)
    assert code == 0, errors
    assert report == expected


def pictures(count: int) -> list:
    rng = np.random.default_rng(3)
    things = [(color, shape) for color in COLORS for shape in SHAPES]
    return [draw(*things[i % len(things)], rng) for i in range(count)]


def tsv(path: Path, count: int, bad) -> str:
    """Overrides that evaluate on `count` pictures, of which some are none."""
    rows = []
    for i, picture in enumerate(pictures(count)):
        picture = b"no picture" if i in bad else picture
        rows.append(f"a picture\t{i}\t{base64.b64encode(picture).decode()}\n")
    path.write_text("".join(rows))
    return f"DataLoader.Eval.dataset.path={path}"


@pytest.mark.parametrize(
    "count, batch_size, bad, workers",
    [(65, 64, [64], 0), (65, 64, [64], 2), (10, 1, [3], 0), (6, 2, [0, 1], 2), (6, 2, [0, 1], 0)],
)
def test_a_bad_row_is_an_error_or_skipped_by_name(
    evaluate, tmp_path, count, batch_size, bad, workers
):
    """Of 65 records 64 were scored, of 10 three, and a batch with only bad rows was a hang."""
    overrides = [
        tsv(tmp_path / "set.tsv", count, bad),
        f"DataLoader.Eval.batch_size={batch_size}",
        f"DataLoader.Eval.num_workers={workers}",
    ]
    code, report, _, errors = evaluate(overrides=overrides)
    assert code == 2 and report is None
    assert len(errors) == 1 and f"set.tsv:{bad[0] + 1}:" in errors[0]

    code, report, printed, _ = evaluate("--skip-bad", "--examples", "0", overrides=overrides)
    assert code == 0 and report["bad_records"] == len(bad)
    assert report["text_to_image"]["queries"] == count - len(bad)
    ledger = (tmp_path / "eval" / "bad_records.jsonl").read_text().splitlines()
    sources = [json.loads(line)["source"].rpartition(":")[2] for line in ledger]
    assert sources == [str(row + 1) for row in bad]
    assert f"bad records left out: {len(bad)}" in printed


def chinese_clip(folder: Path, texts: list, images: int = 6) -> list:
    """Overrides that evaluate on texts, each with its image ids, which begin at 10."""
    with open(folder / "imgs.tsv", "w") as file:
        for i, picture in enumerate(pictures(images)):
            file.write(f"{10 + i}\t{base64.b64encode(picture).decode()}\n")
    with open(folder / "texts.jsonl", "w") as file:
        for i, (text, ids) in enumerate(texts):
            file.write(json.dumps({"text_id": 500 + i, "text": text, "image_ids": ids}) + "\n")
    names = {"name": "chinese_clip", "imgs": folder / "imgs.tsv", "texts": folder / "texts.jsonl"}
    node = ", ".join(f"{key}: {value}" for key, value in names.items())
    return [f"DataLoader.Eval.dataset={{{node}}}", "Metric.ks=[1, 3]"]


TEXTS = [("a red circle", [10, 11, 12]), ("a red cross", [13]), ("a blue line", [])]


def test_texts_with_several_images_and_predictions(evaluate, tmp_path):
    file = tmp_path / "new" / "predictions.jsonl"
    overrides = [*chinese_clip(tmp_path, TEXTS), "Metric.protocol=chinese_clip"]
    code, report, printed, _ = evaluate("--predictions", str(file), overrides=overrides)
    assert code == 0 and report["protocol"] == "chinese_clip"
    assert "protocol: chinese_clip" in printed and str(file) in printed
    sizes = [
        (report[d]["queries"], report[d]["candidates"]) for d in ("text_to_image", "image_to_text")
    ]
    assert sizes == [(2, 6), (4, 3)]

    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["text_id"] for line in found] == [500, 501, 502]
    assert all(len(set(line["image_ids"])) == 3 for line in found)
    for k in (1, 3):  # what their evaluation.py counts
        hits = [
            bool({*line["image_ids"][:k]} & {*ids}) for line, (_, ids) in zip(found, TEXTS) if ids
        ]
        assert report["text_to_image"][f"R@{k}"] == np.mean(hits)
    found = map(json.loads, (file.parent / "predictions.tr.jsonl").read_text().splitlines())
    found = {line["image_id"]: line["text_ids"] for line in found}
    assert list(found) == [10, 11, 12, 13, 14, 15]
    hits = [found[image][0] == (500 if image < 13 else 501) for image in (10, 11, 12, 13)]
    assert report["image_to_text"]["R@1"] == np.mean(hits)
    assert all(0 < report[d]["mrr"] <= 1 for d in ("text_to_image", "image_to_text"))


def test_a_test_set_without_answers_gives_predictions_alone(evaluate, tmp_path):
    overrides = chinese_clip(tmp_path, [(text, []) for text, _ in TEXTS])
    code, _, _, errors = evaluate(overrides=overrides)
    assert code == 2 and "no pair to score" in errors[0]
    file = tmp_path / "predictions.jsonl"
    code, report, printed, _ = evaluate("--predictions", str(file), overrides=overrides)
    assert code == 0 and report is None and "nothing to score" in printed
    assert len(file.read_text().splitlines()) == 3


def test_a_text_of_an_unknown_image_is_not_dropped(evaluate, tmp_path):
    overrides = chinese_clip(tmp_path, [*TEXTS, ("a white line", [99])])
    code, _, _, errors = evaluate(overrides=overrides)
    assert code == 2 and "texts.jsonl:4" in errors[0] and "99" in errors[0]
    code, report, _, _ = evaluate("--skip-bad", overrides=overrides)
    assert code == 0 and report["bad_records"] == 1


def test_two_texts_with_one_id(evaluate, tmp_path):
    overrides = chinese_clip(tmp_path, TEXTS)
    file = tmp_path / "texts.jsonl"
    file.write_text(file.read_text().replace("501", "500"))
    code, _, _, errors = evaluate("--predictions", str(tmp_path / "p"), overrides=overrides)
    assert code == 2 and "text_id 500" in errors[0]
    assert evaluate(overrides=overrides)[0] == 0


def test_a_negative_number_of_examples(evaluate):
    code, _, _, errors = evaluate("--examples", "-1")
    assert code == 2 and len(errors) == 1 and "--examples is -1" in errors[0]


def test_an_installation_for_serving_alone_is_told_what_it_lacks(tmp_path):
    code = """
import sys
sys.modules.update(dict.fromkeys(["jinja2", "paddlenlp", "paddleclas"]))
from ernie_vil2 import cli
from ernie_vil2.commands.eval import main
sys.exit(cli.run(main, ["-c", "demo", "-w", "nowhere"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search("^error: paddle(nlp|clas) is not installed: .* cpu or gpu", done.stderr, re.M)
