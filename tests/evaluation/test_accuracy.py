"""Accuracies against loops in float64 that know nothing of the package, and numbers by hand."""

import numpy as np
import pytest

from ernie_vil2.data.class_names import Class
from ernie_vil2.evaluation.accuracy import evaluate_classification, mistaken
from ernie_vil2.evaluation.chance import bootstrap_interval

CLASSES = [Class(str(i), f"class {i}") for i in range(8)]


@pytest.fixture(scope="module")
def embeds():
    """Images near their classes, of which 2 and 5 are one, and 7 has no image."""
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(8, 6))
    classes[5] = classes[2]
    labels = rng.integers(0, 7, 300)
    images = classes[labels] + rng.normal(scale=1.5, size=(300, 6))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, classes)]
    return unit[0].astype(np.float32), labels, unit[1].astype(np.float32)


def place(scores, label: int, protocol: str) -> int:
    """How many classes stand before the right one."""
    before = 0
    for other, score in enumerate(scores):
        if other == label:
            continue
        tie = abs(score - scores[label]) < 1e-9
        if tie:
            before += {"strict": True, "official": False, "chinese_clip": other < label}[protocol]
        else:
            before += score > scores[label]
    return before


@pytest.mark.parametrize("protocol", ["strict", "official", "chinese_clip"])
def test_accuracies_equal_a_reference_in_float64(embeds, protocol):
    images, labels, classes = embeds
    report = evaluate_classification(images, labels, classes, CLASSES, 0, protocol=protocol)
    scores = [[sum(float(a) * float(b) for a, b in zip(i, c)) for c in classes] for i in images]
    places = [place(row, label, protocol) for row, label in zip(scores, labels.tolist())]
    for k in (1, 5):
        assert report[f"top{k}"] == sum(p < k for p in places) / len(places)
    of_class = []
    for number, each in enumerate(report["per_class"]):
        own = [p for p, label in zip(places, labels) if label == number]
        assert each["images"] == len(own) and each["name"] == f"class {number}"
        if own:
            of_class.append(sum(p < 1 for p in own) / len(own))
            assert each["top1"] == of_class[-1]
            assert each["top5"] == sum(p < 5 for p in own) / len(own)
        taken = [max(range(8), key=lambda c: (round(row[c], 9), -c)) for row in scores]
        taken = [t for t, label in zip(taken, labels) if label == number]
        assert each["predicted"] == {str(t): taken.count(t) for t in set(taken)}
    assert report["per_class"][7]["top1"] is None
    assert report["mean_per_class"] == pytest.approx(np.mean(of_class), abs=1e-12)
    if protocol == "strict":  # so that the comparison above can fail
        assert report["per_class"][2]["top1"] == report["per_class"][5]["top1"] == 0
    else:
        assert report["per_class"][2]["top1"] > 0


def test_intervals_and_chance(embeds):
    images, labels, classes = embeds
    report = evaluate_classification(images, labels, classes, CLASSES, bootstrap=500)
    ranks = np.array(
        [place(row, label, "strict") for row, label in zip(images @ classes.T, labels)]
    )
    expected = bootstrap_interval(ranks, (1, 5), 500)
    assert report["interval"]["top1"] == list(expected["R@1"])
    assert report["interval"]["top5"] == list(expected["R@5"])
    low, high = report["interval"]["mean_per_class"]
    assert low < report["mean_per_class"] < high
    # the variance of a weighted mean: the sum of (weight * (hit - mean))^2
    mean = report["mean_per_class"]
    size = {number: c["images"] for number, c in enumerate(report["per_class"])}
    spread = [((r < 1) - mean) / size[number] / 7 for r, number in zip(ranks, labels.tolist())]
    width = 2 * 1.96 * np.sqrt(np.sum(np.square(spread)))
    assert high - low == pytest.approx(width, rel=0.15)
    assert report["chance"] == {"top1": 1 / 8, "top5": 5 / 8, "mean_per_class": 1 / 8}


def test_classes_of_one_image_have_a_spread_too():
    """A quarter of 400 is right."""
    rows = np.eye(400, dtype=np.float32)
    labels = np.arange(400)
    images = rows[np.where(labels % 4, (labels + 1) % 400, labels)]
    classes = [Class(str(i), str(i)) for i in range(400)]
    report = evaluate_classification(images, labels, rows, classes)
    low, high = report["interval"]["mean_per_class"]
    expected = 2 * 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert report["mean_per_class"] == 0.25
    assert high - low == pytest.approx(expected, rel=0.15)


def test_what_was_mistaken_by_hand():
    images = np.float32([[1, 0], [0, 1], [0, 1], [0, 1], [1, 0]])
    labels = np.array([0, 0, 0, 1, 1])
    classes = np.float32([[1, 0], [0, 1]])
    report = evaluate_classification(images, labels, classes, CLASSES[:2], bootstrap=0)
    assert (report["top1"], report["top5"]) == (0.4, 1.0)
    assert report["mean_per_class"] == (1 / 3 + 1 / 2) / 2
    assert [each["predicted"] for each in report["per_class"]] == [
        {"0": 1, "1": 2},
        {"0": 1, "1": 1},
    ]
    assert mistaken(report, 9) == [(0, 1, 2), (1, 0, 1)] and mistaken(report, 1) == [(0, 1, 2)]
