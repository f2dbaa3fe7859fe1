"""Tags from an object detector that PaddleDetection exported: PP-YOLOE, RT-DETR, Faster R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Pixels
from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.tagging import preprocess
from ernie_vil2.tagging.labels import in_language, stated_labels
from ernie_vil2.tagging.network import ModelFiles, Network
from ernie_vil2.tagging.pictures import each_picture
from ernie_vil2.tagging.tags import Choice, Found, Tags

_COLUMNS = 6  # class, score, x0, y0, x1, y1


class Detector:
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
        self.files, self.choice = ModelFiles(folder, config), choice
        self.device, self.threads = device, threads
        content, where = self.files.content, self.files.path
        known = stated_labels(content.get("label_list"), label_file, str(where))
        self.labels = in_language(known, language)
        self.threshold = float(content.get("draw_threshold", 0.5))
        self.origin = f"detector {self.files.origin}"
        self._stated = _stated(content, str(where))
        self._open()  # so that an unknown step is told now
        self._network: Network | None = None

    def _open(self) -> None:
        try:
            self._steps = preprocess.steps(self._stated, preprocess.DETECTION)
        except UserError as error:
            raise UserError(f"{self.files.path}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_steps": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def tag(self, records: Sequence[Record]) -> list[Tags]:
        return each_picture(records, decode_image, self._tags)

    def _tags(self, images: Sequence[Pixels]) -> list[Tags]:
        found: list[Tags] = []
        for image, boxes in zip(images, self.boxes(images)):
            height, width = image.shape[:2]
            found.append(self.choice(self._things(boxes, height, width), self.threshold))
        return found

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
        """float32 [N, 6] for each picture: class, score, x0, y0, x1, y1 in its own pixels.

        Pictures of one size after the preprocessing run together. Others do not: padding to the
        largest would let a picture's boxes depend on its neighbours.
        """
        pictures = [preprocess.Prepared.of(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, picture in enumerate(pictures):
            for step in self._steps:
                step(picture)
            groups.setdefault(picture.image.shape, []).append(number)
        boxes: dict[int, Array] = {}
        for numbers in groups.values():
            found = self._run([pictures[number] for number in numbers])
            boxes.update(zip(numbers, found))
        return [boxes[number] for number in range(len(images))]

    def _run(self, pictures: Sequence[preprocess.Prepared]) -> list[Array]:
        if self._network is None:
            self._network = Network(self.files, self.device, self.threads)
        feeds = {
            "image": np.stack([picture.image for picture in pictures]).astype(np.float32),
            "im_shape": np.array([picture.shape for picture in pictures], np.float32),
            "scale_factor": np.array([picture.scale for picture in pictures], np.float32),
        }
        outputs = self._network(feeds)
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
