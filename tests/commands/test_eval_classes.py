"""The evaluation command: classes, their layouts, an exported model, and four directions."""

import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.config.load import load_config
from ernie_vil2.data.transforms import eval_transform
from ernie_vil2.evaluation.trained import load_trained
from ernie_vil2.export.pipeline import Options, export_model
from ernie_vil2.serving.predictor import Predictor
from tests.support.shapes import COLORS, draw
from tests.support.tars import write_tar

NAMES = [f"{color} {shape}" for color in COLORS for shape in ("circle", "line")]  # 8
TEMPLATES = ["a {}", "the picture contains {}", "{}"]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [(number, draw(*name.split(), rng)) for number, name in enumerate(NAMES) for _ in "abc"]


@pytest.fixture
def elevater(tmp_path, pictures, monkeypatch):
    """Options: a set as Chinese-CLIP publishes them, without pictures of class 3, and templates."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place, (number, picture) in enumerate(pictures):
        if number != 3:
            folder = tmp_path / "set" / "test" / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place}.png").write_bytes(picture)
    (tmp_path / "set" / "label_cn.txt").write_text("\n".join(NAMES))
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    return ["--images", str(tmp_path / "set"), "--templates", str(tmp_path / "templates.txt")]


@pytest.fixture(scope="module")
def reference(trained, pictures):
    """Ranks of the right classes in float64, by the model itself, and cosines [N, C]."""
    config = load_config(trained[0])
    model, tokenizer = load_trained(trained[1], config)
    kept = [(number, picture) for number, picture in pictures if number != 3]
    transform = eval_transform(32)
    with paddle.no_grad():
        pixels = np.stack([transform(picture) for _, picture in kept])
        images = model.encode_image(paddle.to_tensor(pixels)).numpy().astype(np.float64)
        classes = []
        for name in NAMES:
            prompts = [template.replace("{}", name) for template in TEMPLATES]
            rows = model.encode_text(paddle.to_tensor(tokenizer(prompts))).numpy()
            rows = rows.astype(np.float64)
            mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
            classes.append(mean / np.linalg.norm(mean))
    labels = np.array([number for number, _ in kept])
    cosine = images @ np.array(classes).T
    ranks = (cosine > cosine[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    return labels, ranks, cosine


def check(report, reference):
    labels, ranks, _ = reference
    assert (report["images"], report["classes"], report["templates"]) == (21, 8, 3)
    assert report["top1"] == np.mean(ranks < 1) and report["top5"] == np.mean(ranks < 5)
    of_class = [np.mean(ranks[labels == number] < 1) for number in range(8) if number != 3]
    assert report["mean_per_class"] == pytest.approx(np.mean(of_class))
    assert [each["name"] for each in report["per_class"]] == NAMES
    assert report["per_class"][3]["images"] == 0
    assert 0 < report["top5"] < 1  # else the comparison shows little


def test_a_set_of_elevater(evaluate, elevater, tmp_path, reference):
    code, report, printed, errors = evaluate("--task", "classification", *elevater)
    assert code == 0, errors
    check(report, reference)
    assert re.search(r"top-5 +\d+\.\d +\d", printed) and "21 images, 8 classes, 1 of" in printed
    page = (tmp_path / "eval" / "page.html").read_text("utf-8")
    assert page.count("<td") > 7 * 8 and "<script" not in page and "://" not in page
    assert "blue line → " in page
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    # the second time the classifier is the one that lies there
    np.save(kept, np.load(kept)[::-1])
    _, turned, _, _ = evaluate("--task", "classification", *elevater)
    assert turned["per_class"] != report["per_class"]


def test_what_the_challenge_takes(evaluate, elevater, trained, tmp_path, reference):
    path = tmp_path / "out" / "shapes.json"
    task = ["--task", "classification", *elevater, "--elevater", str(path)]
    code, _, printed, errors = evaluate(*task)
    assert code == 0, errors
    assert f"{path}, 21 pictures in the order of the folders" in printed
    found = json.loads(path.read_text())
    model, _ = load_trained(trained[1], load_config(trained[0]))
    sizes = {name: value.size for name, value in model.named_parameters()}
    visual = sum(size for name, size in sizes.items() if "image" in name)
    predictions = np.array(found.pop("predictions"))
    assert found == {  # the keys of the example in Chinese-CLIP's README
        "model_name": str(trained[1]),
        "dataset_name": "shapes",
        "num_trainable_params": 0,
        "num_params": sum(sizes.values()),
        "num_visual_params": visual,
        "num_backbone_params": sum(sizes.values()),
        "n_shot": 0,
        "rnd_seeds": [123],
    }
    e = np.exp(100 * reference[2])
    expected = e / e.sum(axis=1, keepdims=True)
    assert predictions.shape == (1, 21, 8)
    np.testing.assert_allclose(predictions[0], expected, atol=1e-4)

    order = np.random.default_rng(1).permutation(21)[:20].tolist()
    (tmp_path / "set" / "index.json").write_text(json.dumps(order))
    code, _, printed, _ = evaluate(*task)
    assert code == 0 and "20 pictures in the order of " in printed
    again = json.loads(path.read_text())["predictions"]
    assert np.array_equal(again, predictions[:, order])


@pytest.mark.parametrize(
    "index, said",
    [
        ([0, 21], "index.json names picture 21: the set has 0 to 20"),
        ({"0": 1}, "index.json is no list of whole numbers"),
        ([True], "index.json is no list of whole numbers"),
    ],
)
def test_an_index_that_is_none_is_one_line(evaluate, elevater, tmp_path, index, said):
    (tmp_path / "set" / "index.json").write_text(json.dumps(index))
    task = ["--task", "classification", *elevater, "--elevater", str(tmp_path / "a.json")]
    code, _, _, errors = evaluate(*task)
    assert code == 2 and len(errors) == 1 and said in errors[0]
    assert not (tmp_path / "a.json").exists()


def test_the_challenge_wants_every_picture(evaluate, elevater, tmp_path):
    next((tmp_path / "set" / "test" / "0").iterdir()).write_bytes(b"no picture")
    task = ["--task", "classification", *elevater, "--elevater", str(tmp_path / "a.json")]
    code, _, _, errors = evaluate(*task, "--skip-bad")
    assert code == 2 and "1 of the set's 21 pictures have no embedding" in errors[-1]


def test_an_exported_model_is_evaluated_and_classifies(
    evaluate, elevater, trained, tmp_path, reference, pictures
):
    folder = tmp_path / "exported"
    options = Options(prompts=TEMPLATES, classes=NAMES)
    export_model(trained[1], load_config(trained[0]), folder, options, say=lambda line: None)
    code, report, _, errors = evaluate("-w", str(folder), "--task", "classification", *elevater[:2])
    assert code == 0, errors
    check(report, reference)
    assert report["templates_from"] == "the model's own"
    submission = ["--task", "classification", *elevater[:2], "--elevater", str(tmp_path / "a.json")]
    code, _, _, errors = evaluate("-w", str(folder), *submission)
    assert code == 2 and "which an exported model does not tell" in errors[-1]

    predictor = Predictor(folder)
    found = predictor.classify([picture for number, picture in pictures if number != 3], top=8)
    named = predictor.classify([pictures[0][1]], NAMES, TEMPLATES, top=2)
    logits = predictor.logit_scale * reference[2]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, right in zip(found, expected):
        assert [name for name, _ in row] == [NAMES[i] for i in np.argsort(-right)]
        np.testing.assert_allclose([p for _, p in row], np.sort(right)[::-1], atol=1e-4)
    assert [name for name, _ in named[0]] == [name for name, _ in found[0][:2]]
    assert Artefact.open(folder).classifier().templates == TEMPLATES


def test_classes_that_a_sets_rows_name(evaluate, tmp_path, pictures):
    members = []
    for place, (number, picture) in enumerate(pictures):
        row = {"class": NAMES[number], "tags": NAMES[number].split()}
        members += [(f"{place}.png", picture), (f"{place}.json", row)]
    path = write_tar(tmp_path / "a.tar", *members)
    overrides = [f"DataLoader.Eval.dataset={{name: shards, path: {path}}}"]
    task = ["--task", "classification"]
    code, report, _, errors = evaluate(*task, overrides=overrides)
    assert code == 0, errors
    assert [each["class"] for each in report["per_class"]] == sorted(NAMES)
    of_one_class = ["--directions", "image_to_image", "--label", "class", "--examples", "3"]
    code, report, _, errors = evaluate(*of_one_class, overrides=overrides)
    assert code == 0, errors  # though the set has no caption
    found = report["image_to_image"]
    assert (found["queries"], found["candidates"]) == (24, 23)
    assert found["chance"]["R@1"] == pytest.approx(2 / 23)  # each has two fellows
    _, report, _, _ = evaluate(*task, "--label", "tags.0", overrides=overrides)
    assert [each["class"] for each in report["per_class"]] == sorted(COLORS)

    (tmp_path / "names.txt").write_text("\n".join(f"{n}\tthe {n}" for n in NAMES[1:]))
    named = [*task, "--classes", str(tmp_path / "names.txt")]
    code, _, _, errors = evaluate(*named, overrides=overrides)
    assert code == 2 and "a.tar:0: its class is red circle, which" in errors[0]
    code, report, _, _ = evaluate(*named, "--skip-bad", overrides=overrides)
    assert code == 0 and report["bad_records"] == 3 and report["images"] == 21
    assert report["per_class"][0]["name"] == "the red line"


def test_four_directions(evaluate, trained, tmp_path):
    """The set that the model was trained on: four drawings of each of 16 things."""
    overrides = [f"DataLoader.Eval.dataset={{name: tsv, path: {tmp_path / 'a.tsv'}}}"]
    train = Path(load_config(trained[0]).DataLoader.Train.dataset.path)
    rows = [row.split("\t") for row in train.read_text("utf-8").splitlines()]
    more = ["\t".join([tags.replace("|", " "), *row]) for _, *row, tags in rows]
    lines = ["\t".join(row[:3]) for row in rows] + more
    (tmp_path / "a.tsv").write_text("\n".join(lines), encoding="utf-8")
    asked = ["--directions", "text_to_text", "image_to_image", "text_to_image", "image_to_text"]
    code, report, printed, errors = evaluate(*asked, overrides=overrides)
    assert code == 0, errors
    sizes = {name: (report[name]["queries"], report[name]["candidates"]) for name in asked[1:]}
    assert sizes == {
        "text_to_image": (128, 64),
        "image_to_text": (64, 128),
        "image_to_image": (64, 63),  # each with the three others of its thing
        "text_to_text": (32, 31),  # of each thing two texts
    }
    assert "Text to text, %" in printed and "Image to image, %" in printed
    page = (tmp_path / "eval" / "page.html").read_text("utf-8")
    assert page.count('<th scope="col">') == 5
    code, report, _, _ = evaluate("--directions", "image_to_image", overrides=overrides)
    assert code == 0 and "mean_recall" not in report and "text_to_image" not in report


@pytest.mark.parametrize(
    "options, error",
    [
        (["--templates", "TEMPLATES"], "--templates belongs to --task classification"),
        (["--elevater", "a.json"], "--elevater belongs to --task classification"),
        (["--task", "classification", "--elevater", "a"], "--elevater belongs to --images DIR"),
        (["--task", "classification", "--score", "a"], "--score belongs to --task retrieval"),
        (["--task", "classification", "--muge", "a"], "--muge belongs to --task retrieval"),
        (["--task", "classification", "--templates", "chinese_clp"], 'did you mean "chinese_clip"'),
        (["--task", "classification", "--templates", "LINES"], "expected {} once"),
        (["--task", "classification", "--images", "EMPTY"], "has no folders: expected one for"),
        (["--task", "classification", "--label", "kind"], "no kind, which says its class"),
    ],
)
def test_what_cannot_be(evaluate, tmp_path, options, error):
    (tmp_path / "lines").write_text("a {}\nnone\n")
    (tmp_path / "empty").mkdir()
    places = {"LINES": str(tmp_path / "lines"), "EMPTY": str(tmp_path / "empty")}
    code, report, _, errors = evaluate(*[places.get(option, option) for option in options])
    assert code == 2 and report is None
    assert len(errors) == 1 and error in errors[0]
