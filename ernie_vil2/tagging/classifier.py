"""Tags from a classifier of several labels that PaddleClas exported, such as PULC's attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array, Pixels
from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.tagging import preprocess
from ernie_vil2.tagging.labels import in_language, labels, stated_labels
from ernie_vil2.tagging.network import ModelFiles, Network
from ernie_vil2.tagging.pictures import each_picture
from ernie_vil2.tagging.tags import Choice, Found, Tags

_THRESHOLD = 0.5
# PaddleClas's names of what reads the scores, and the labels that are then known
_ATTRIBUTES = {"VehicleAttribute": "vehicle_attribute", "PersonAttribute": "person_attribute"}


class Classifier:
    """A `Tagger`: each label whose score reaches its threshold.

    Args:
        folder: of the exported model: `inference.pdmodel` and `inference.yml`.
        choice: which labels become tags.
        language: of the tags, "en" or "zh"; None: "en", or as a list of your own has them.
        device, threads: where it runs.
        config: PaddleClas's configuration, where it is not in the folder, such as
            `deploy/configs/PULC/vehicle_attribute/inference_vehicle_attribute.yaml`.
        label_file: of `stated_labels`; not needed for PULC's vehicle and person attributes, and
            where the configuration has a list.
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
        where = str(self.files.path)
        stated = _section(self.files.content, "PreProcess", where).get("transform_ops")
        if not isinstance(stated, list) or not all(isinstance(s, dict) for s in stated):
            raise UserError(f"{where} has no PreProcess.transform_ops: expected a list of steps")
        self._stated = [(name, options or {}) for step in stated for name, options in step.items()]
        reads, settings = _reads(self.files.content, where)
        if reads in _ATTRIBUTES and not label_file:
            known = labels(_ATTRIBUTES[reads])
        else:
            known = stated_labels(settings.get("label_list"), label_file, where)
        self.labels = in_language(known, language)
        self.thresholds = [
            float(settings.get(label.setting or "threshold", _THRESHOLD)) for label in known
        ]
        self._groups = [label.group for label in known]
        self.origin = f"classifier {self.files.origin}"
        self._open()
        self._network: Network | None = None

    def _open(self) -> None:
        try:
            self._steps = preprocess.steps(self._stated, preprocess.CLASSIFICATION)
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
        return [self._chosen(scores) for scores in self.scores(images)]

    def scores(self, images: Sequence[Pixels]) -> Array:
        """float32 [B, labels]."""
        pictures = [preprocess.Prepared.of(image) for image in images]
        for picture in pictures:
            for step in self._steps:
                step(picture)
        if self._network is None:
            self._network = Network(self.files, self.device, self.threads)
        (scores, *_) = self._network(
            {"image": np.stack([picture.image for picture in pictures]).astype(np.float32)}
        )
        if scores.shape[1:] != (len(self.labels),):
            raise UserError(
                f"{self.files.program} gives {list(scores.shape[1:])} scores a picture, there are "
                f"{len(self.labels)} labels: name the model's own with --labels"
            )
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise UserError(
                f"{self.files.program} gives scores from {scores.min():.3g} to {scores.max():.3g}: "
                "expected 0 to 1, of a sigmoid; export it with Global.use_multilabel: True"
            )
        return scores

    def _chosen(self, scores: Array) -> Tags:
        best: dict[str, float] = {}  # of each group
        for group, score in zip(self._groups, scores):
            best[group] = max(best.get(group, 0.0), float(score))
        passed = [
            Found(label, float(score))
            for label, group, threshold, score in zip(
                self.labels, self._groups, self._least(), scores
            )
            if score >= threshold and (group == "-" or score == best[group])
        ]
        return self.choice(passed, 0.0)

    def _least(self) -> Sequence[float]:
        if self.choice.threshold is None:
            return self.thresholds
        return [self.choice.threshold] * len(self.labels)


def _section(content: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict):
        raise UserError(f"{where} has no {name}: expected a configuration of PaddleClas's deploy")
    return section


def _reads(content: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """What reads the scores, and its settings."""
    section = dict(_section(content, "PostProcess", where))
    main = section.pop("main_indicator", None) or next(iter(section), "")
    settings = section.get(main)
    return str(main), settings if isinstance(settings, dict) else {}
