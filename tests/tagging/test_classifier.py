"""Tags of a classifier of several labels, exported with PaddleClas's interface."""

import cv2
import numpy as np
import paddle
import pytest
import yaml

from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.tagging.classifier import Classifier
from ernie_vil2.tagging.tags import Choice

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Linear(paddle.nn.Layer):
    """The sigmoid of a linear function of the mean colour."""

    def __init__(self, weight, bias, sigmoid=True):
        super().__init__()
        self.last = paddle.nn.Linear(3, len(bias))
        self.last.weight.set_value(np.asarray(weight, np.float32))
        self.last.bias.set_value(np.asarray(bias, np.float32))
        self.sigmoid = sigmoid

    def forward(self, x):
        scores = self.last(x.mean([2, 3]))
        return paddle.nn.functional.sigmoid(scores) if self.sigmoid else scores


def exported(folder, net, post, config="inference.yml"):
    net.eval()
    spec = paddle.static.InputSpec([None, 3, 16, 12], "float32", "x")  # PaddleClas's name
    paddle.jit.save(net, str(folder / "inference"), input_spec=[spec])
    normalise = {"scale": "1.0/255.0", "mean": MEAN, "std": STD, "order": "", "channel_num": 3}
    steps = [{"ResizeImage": {"size": [12, 16]}}, {"NormalizeImage": normalise}]
    content = {"PreProcess": {"transform_ops": [*steps, {"ToCHWImage": None}]}, "PostProcess": post}
    (folder / config).write_text(yaml.safe_dump(content))
    return str(folder)


def record(color):
    image = np.full([40, 30, 3], color, np.uint8)
    data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    return Record("a", data, ("a",), (), "test:1")


def expected_scores(color, weight, bias):
    """In float64."""
    x = (np.array(color) / 255 - MEAN) / STD
    return 1 / (1 + np.exp(-(x @ np.asarray(weight) + bias)))


def test_scores_over_a_list(tmp_path):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=[3, 5]), rng.normal(size=5)
    names = ["person", "dog", "a", "b", "c"]
    post = {"MultiLabelThreshOutput": {"threshold": 0.4, "label_list": names}}
    folder = exported(tmp_path, Linear(weight, bias), post)
    classifier = Classifier(folder, Choice())
    assert classifier.origin.startswith(f"classifier {tmp_path.name} sha256:")
    colors = [[200, 30, 40], [10, 200, 90], [250, 250, 5]]
    got = classifier.tag([record(color) for color in colors])
    for tags, color in zip(got, colors):
        scores = expected_scores(color, weight, bias)
        order = [i for i in np.argsort(-scores) if scores[i] >= 0.4]
        assert list(tags.names) == [names[i] for i in order]
        np.testing.assert_allclose(tags.scores, scores[order], atol=1e-4)
    (few,) = Classifier(folder, Choice(threshold=0.0, at_most=2)).tag([record(colors[0])])
    assert len(few.names) == 2


def test_attributes_of_vehicles(tmp_path):
    """One colour and one kind, as PaddleClas's own reading of the scores has it."""
    oracle = pytest.importorskip("paddleclas.deploy.python.postprocess")
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=[3, 19]) * 2, rng.normal(size=19)
    settings = {"color_threshold": 0.6, "type_threshold": 0.7}
    post = {"main_indicator": "VehicleAttribute", "VehicleAttribute": settings}
    folder = exported(tmp_path, Linear(weight, bias), post)
    classifier = Classifier(folder, Choice())
    chinese = Classifier(folder, Choice(), "zh")
    seen = set()
    for color in np.random.default_rng(2).integers(0, 256, [12, 3]):
        scores = expected_scores(color, weight, bias)
        theirs = oracle.VehicleAttribute(**settings)(scores[None])[0]["attributes"]
        (tags,) = classifier.tag([record(color)])
        seen.add(len(tags.names))
        for name in ("Color", "Type"):
            of_group = theirs.split(f"{name}")[1].split(")")[0]
            if of_group.strip().startswith("unknown"):
                continue
            label = of_group.split("(")[1].split(",")[0]
            assert label in {tag.lower().split()[0] for tag in tags.names} or label == "estate"
        assert len(tags.names) == 2 - theirs.count("unknown")
        (zh,) = chinese.tag([record(color)])
        assert len(zh.names) == len(tags.names) and not any(tag.isascii() for tag in zh.names)
    assert len(seen) > 1


@pytest.mark.parametrize(
    "net,post,said",
    [
        ({"sigmoid": False}, {"X": {"label_list": ["a", "b"]}}, "of a sigmoid"),
        ({}, {"X": {"label_list": ["a"]}}, "there are 1 labels"),
        ({}, {"Topk": {"topk": 1}}, "has no label_list"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, net, post, said):
    folder = exported(tmp_path, Linear(np.eye(3)[:, :2] * 9, [3.0, 3.0], **net), post)
    with pytest.raises(UserError, match=said):
        Classifier(folder, Choice()).tag([record([250, 250, 250])])


def test_a_picture_that_cannot_be_prepared_keeps_its_place(tmp_path):
    """A line of pixels, whose shorter side brought to 256 would take gigabytes."""
    post = {"X": {"label_list": ["a", "b"], "threshold": 0.1}}
    folder = exported(tmp_path, Linear(np.zeros([3, 2]), [3.0, -3.0]), post)
    path = tmp_path / "inference.yml"
    content = yaml.safe_load(path.read_text())
    short = {"ResizeImage": {"resize_short": 256}}
    content["PreProcess"]["transform_ops"].insert(0, short)
    path.write_text(yaml.safe_dump(content))
    line = np.zeros([1, 20_000, 3], np.uint8)
    long = Record("b", cv2.imencode(".png", line)[1].tobytes(), ("b",), (), "test:b")
    first, second = Classifier(folder, Choice()).tag([long, record([9, 9, 9])])
    assert "pixels" in first.bad and second.names == ("a",)
