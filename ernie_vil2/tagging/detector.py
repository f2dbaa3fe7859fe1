"""Tags from an object detector that PaddleDetection exported: PP-YOLOE, RT-DETR, Faster R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Pixels
from ernie_vil2.errors import UserError
from ernie_vil2.tagging import preprocess
from ernie_vil2.tagging.exported import ExportedTagger
from ernie_vil2.tagging.labels import in_language, stated_labels
from ernie_vil2.tagging.network import ModelFiles
from ernie_vil2.tagging.tags import Choice, Found, Tags

_COLUMNS = 6  # class, score, x0, y0, x1, y1


class Detector(ExportedTagger):
    """A `Tagger`: the categories of the boxes in a picture.

    Args:
        folder: of the exported model, with `infer_cfg.yml`, from which come the preprocessing,
            the categories and the threshold (`draw_threshold`).
        choice: which boxes become tags.
        language: of the tags, "en" or "zh"; None: "en".
        device, threads: where it runs.
        config: the configuration, where it has another name.
        label_file: of `stated_labels`, where its names are not those of the configuration.

    Attributes:
        labels: a tag for each category.
        threshold: the configuration's.
    """

    def __init__(
        self,
        folder: str,
        choice: Choice,
        language: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        config: str | None = None,
        label_file: str | None = None,
    ):
        files = ModelFiles(folder, config)
        content, where = files.content, str(files.path)
        known = stated_labels(content.get("label_list"), label_file, where)
        self.labels = in_language(known, language)
        self.threshold = float(content.get("draw_threshold", 0.5))
        stated = _stated(content, where)
        table = preprocess.DETECTION
        super().__init__("detector", files, stated, table, choice, device, threads)

    def _tags(self, pictures: Sequence[preprocess.Prepared]) -> list[Tags]:
        return [
            self.choice(self._things(boxes, *picture.size), self.threshold)
            for picture, boxes in zip(pictures, self._boxes(pictures))
        ]

    def _things(self, boxes: Array, height: int, width: int) -> list[Found]:
        """What boxes [N, 6] say of a picture."""
        right, below = (boxes[:, 4].clip(0, width), boxes[:, 5].clip(0, height))
        left, above = (boxes[:, 2].clip(0, width), boxes[:, 3].clip(0, height))
        areas = (right - left).clip(0) * (below - above).clip(0) / (height * width)
        return [
            Found(self.labels[int(category)], float(score), float(area))
            for category, score, area in zip(boxes[:, 0], boxes[:, 1], areas)
            if 0 <= category < len(self.labels)  # -1 says that there is none
        ]

    def boxes(self, images: Sequence[Pixels]) -> list[Array]:
        """float32 [N, 6] for each picture: class, score, x0, y0, x1, y1 in its own pixels."""
        return self._boxes([self.prepare(image) for image in images])

    def _boxes(self, pictures: Sequence[preprocess.Prepared]) -> list[Array]:
        """As `boxes`.

        Pictures of one size after the preprocessing run together. Others do not: padding to the
        largest would let a picture's boxes depend on its neighbours.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, picture in enumerate(pictures):
            groups.setdefault(picture.image.shape, []).append(number)
        boxes: dict[int, Array] = {}
        for numbers in groups.values():
            found = self._run([pictures[number] for number in numbers])
            boxes.update(zip(numbers, found))
        return [boxes[number] for number in range(len(pictures))]

    def _run(self, pictures: Sequence[preprocess.Prepared]) -> list[Array]:
        feeds = {
            "image": np.stack([picture.image for picture in pictures]).astype(np.float32),
            "im_shape": np.array([picture.shape for picture in pictures], np.float32),
            "scale_factor": np.array([picture.scale for picture in pictures], np.float32),
        }
        outputs = self._run_on(feeds)
        if len(outputs) == 1 and len(pictures) > 1:  # it does not say whose the boxes are
            return [self._run([picture])[0] for picture in pictures]
        boxes = outputs[0]
        if boxes.ndim != 2 or boxes.shape[1] != _COLUMNS:
            raise UserError(
                f"{self.files.program} gives {list(boxes.shape)}: expected boxes [N, {_COLUMNS}], "
                "class, score, x0, y0, x1, y1; export the detector with its postprocessing and NMS"
            )
        counts = [len(boxes)] if len(outputs) == 1 else outputs[1].reshape(-1).tolist()
        return np.split(boxes, np.cumsum(counts)[:-1])


def _stated(content: dict[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    listed = content.get("Preprocess")
    if not isinstance(listed, list) or not all(
        isinstance(step, dict) and "type" in step for step in listed
    ):
        raise UserError(f"{where} has no Preprocess: expected a list of steps with a type each")
    return [(str(s["type"]), {k: v for k, v in s.items() if k != "type"}) for s in listed]
