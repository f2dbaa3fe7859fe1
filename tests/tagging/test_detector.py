"""Tags of a detector that was trained here on drawn shapes and exported as PaddleDetection does."""

import pickle

import cv2
import numpy as np
import pytest
import yaml

from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.tagging.detector import Detector
from ernie_vil2.tagging.tags import Choice
from tests.support import detector as shapes


def held_out(count: int, seed: int = 99) -> list[tuple[np.ndarray, list[tuple]]]:
    """Pictures that training has not seen, of one to four things."""
    rng = np.random.default_rng(seed)
    return [shapes.draw(rng, 1 + number % 4) for number in range(count)]


def record(image: np.ndarray, name: str = "a") -> Record:
    data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    return Record(name, data, ("a picture",), (), f"test:{name}")


def test_its_tags_are_right(detector_folder):
    detector = Detector(detector_folder, Choice())
    assert detector.threshold == 0.5 and detector.origin.startswith("detector detector0 sha256:")
    pictures = held_out(60)
    tags = detector.tag([record(image) for image, _ in pictures])
    expected = [{shapes.NAMES[name] for name, _ in things} for _, things in pictures]
    assert [set(of_picture.names) for of_picture in tags] == expected
    for of_picture in tags:
        assert len(of_picture.names) == len(set(of_picture.names)) == len(of_picture.scores)
        assert sorted(of_picture.scores, reverse=True) == list(of_picture.scores)
        assert min(of_picture.scores) >= 0.5


def test_its_boxes_are_in_the_pictures_own_pixels(detector_folder):
    detector = Detector(detector_folder, Choice())
    for image, things in held_out(10):
        big = cv2.resize(image, None, fx=3, fy=2, interpolation=cv2.INTER_NEAREST)
        for stretched, scale in ((image, [1, 1, 1, 1]), (big, [3, 2, 3, 2])):
            (boxes,) = detector.boxes([stretched])
            found = {int(box[0]): box[2:] for box in boxes if box[1] > 0.5}
            for name, box in things:
                if sum(name == other for other, _ in things) == 1:
                    assert np.abs(found[name] / scale - box).max() < 6


def test_a_picture_does_not_depend_on_its_neighbours(detector_folder):
    detector = Detector(detector_folder, Choice())
    images = [image for image, _ in held_out(6)]
    images[2] = images[2][:40]
    together = detector.boxes(images)
    for image, boxes in zip(images, together):
        np.testing.assert_allclose(detector.boxes([image])[0], boxes, rtol=1e-4, atol=1e-4)


def test_what_is_kept(detector_folder):
    (image, things) = next((i, t) for i, t in held_out(40) if len({n for n, _ in t}) == 4)
    by_area = sorted(things, key=lambda thing: thing[1][0] - thing[1][2])
    largest = {shapes.NAMES[name] for name, _ in by_area[:1]}
    (tags,) = Detector(detector_folder, Choice(order="area")).tag([record(image)])
    boxes = {name: box[2] - box[0] for name, box in things}
    widths = [boxes[shapes.NAMES.index(name)] for name in tags.names]
    assert widths[0] >= max(widths) - 3 and largest <= set(tags.names)
    (two,) = Detector(detector_folder, Choice(at_most=2, order="area")).tag([record(image)])
    assert two.names == tags.names[:2]
    (none,) = Detector(detector_folder, Choice(threshold=1.1)).tag([record(image)])
    assert none.names == () and none.bad == ""


def test_chinese_and_after_a_pickle(detector_folder, tmp_path):
    path = tmp_path / "labels.txt"
    colors, figures = {"red": "红色", "green": "绿色", "blue": "蓝色"}, ["圆形", "方形", "三角形"]
    zh = [color + figure for color in colors.values() for figure in figures]
    lines = [f"{name}\t{name}\t{of}\n" for name, of in zip(shapes.NAMES, zh)]
    path.write_text("".join(lines), encoding="utf-8")
    detector = Detector(detector_folder, Choice(), "zh", label_file=str(path))
    image, things = held_out(1)[0]
    (tags,) = pickle.loads(pickle.dumps(detector)).tag([record(image)])
    assert tags.names == (zh[things[0][0]],)
    with pytest.raises(UserError, match="no Chinese name is known of 'red circle' and 8 more"):
        Detector(detector_folder, Choice(), "zh")


def test_a_bad_picture_keeps_its_place(detector_folder):
    detector = Detector(detector_folder, Choice())
    (image, things), *_ = held_out(1)
    good, bad = record(image), Record("b", b"no picture", ("b",), (), "test:b")
    first, second, third = detector.tag([bad, good, bad])
    assert second.names == (shapes.NAMES[things[0][0]],)
    assert first == third and first.names == () and "not an image" in first.bad


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"label_list": []}, "has no label_list"),
        ({"Preprocess": None}, "has no Preprocess"),
        ({"Preprocess": [{"type": "CULaneResize"}]}, "step CULaneResize"),
    ],
)
def test_a_configuration_that_cannot_be_used(trained, tmp_path, changes, said):
    folder = shapes.export(trained, tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        Detector(str(folder), Choice())


def test_no_model_is_one_line(tmp_path, detector_folder):
    with pytest.raises(UserError, match="holds no exported model"):
        Detector(str(tmp_path), Choice())
    for name in ("model.pdmodel", "model.pdiparams"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no infer_cfg\.yml"):
        Detector(str(tmp_path), Choice())
    (tmp_path / "infer_cfg.yml").write_text("[1]")
    with pytest.raises(UserError, match="is a list"):
        Detector(str(tmp_path), Choice())


def test_raw_outputs_are_refused(trained, tmp_path):
    """A detector that was exported without its postprocessing gives other arrays."""
    import paddle

    class Raw(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.net = trained

        def forward(self, image):
            return self.net.cells(image)

    raw = Raw()
    raw.eval()
    spec = paddle.static.InputSpec([None, 3, *shapes.SIZE], "float32", "image")
    paddle.jit.save(raw, str(tmp_path / "model"), input_spec=[spec])
    (tmp_path / "infer_cfg.yml").write_text(
        yaml.safe_dump(
            {
                "label_list": shapes.NAMES,
                "Preprocess": [
                    {"type": "Resize", "target_size": shapes.SIZE, "keep_ratio": False},
                    {"type": "Permute"},
                ],
            }
        )
    )
    with pytest.raises(UserError, match="expected boxes"):
        Detector(str(tmp_path), Choice()).tag([record(held_out(1)[0][0])])
