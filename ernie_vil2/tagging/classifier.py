"""Tags from a classifier of several labels that PaddleClas exported, such as PULC's attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.arrays import Array
from ernie_vil2.errors import UserError
from ernie_vil2.tagging import preprocess
from ernie_vil2.tagging.exported import ExportedTagger
from ernie_vil2.tagging.labels import in_language, labels, stated_labels
from ernie_vil2.tagging.network import ModelFiles
from ernie_vil2.tagging.tags import Choice, Found, Tags

_THRESHOLD = 0.5
# PaddleClas's names of what reads the scores, and the labels that are then known
_ATTRIBUTES = {"VehicleAttribute": "vehicle_attribute", "PersonAttribute": "person_attribute"}


class Classifier(ExportedTagger):
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
        files = ModelFiles(folder, config)
        where = str(files.path)
        listed = _section(files.content, "PreProcess", where).get("transform_ops")
        if not isinstance(listed, list) or not all(isinstance(s, dict) for s in listed):
            raise UserError(f"{where} has no PreProcess.transform_ops: expected a list of steps")
        stated = [(name, options or {}) for step in listed for name, options in step.items()]
        reads, settings = _reads(files.content, where)
        if reads in _ATTRIBUTES and not label_file:
            known = labels(_ATTRIBUTES[reads])
        else:
            known = stated_labels(settings.get("label_list"), label_file, where)
        self.labels = in_language(known, language)
        self.thresholds = [
            float(settings.get(label.setting or "threshold", _THRESHOLD)) for label in known
        ]
        self._groups = [label.group for label in known]
        table = preprocess.CLASSIFICATION
        super().__init__("classifier", files, stated, table, choice, device, threads)

    def _tags(self, pictures: Sequence[preprocess.Prepared]) -> list[Tags]:
        return [self._chosen(scores) for scores in self.scores(pictures)]

    def scores(self, pictures: Sequence[preprocess.Prepared]) -> Array:
        """float32 [B, labels]."""
        pixels = np.stack([picture.image for picture in pictures])
        scores, *_ = self._run_on({"image": pixels.astype(np.float32)})
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
