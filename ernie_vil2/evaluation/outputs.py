"""What an evaluation writes for other programs, beside its report and page."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.evaluation.embeddings import Embeddings


@dataclass(frozen=True)
class Outputs:
    """Files for other programs; None: not written.

    Attributes:
        predictions: the images found for each text, in Chinese-CLIP's JSONL; the texts of each
            image are written beside it, for `a.jsonl` into `a.tr.jsonl`.
        features: what the names of two files of features begin with (`feature_files.py`).
        dump: the official dump of embeddings (`official_dump.py`).
        score: the JSON of evaluation.py, text to image; the other direction beside it, for `a.json`
            in `a.tr.json`.
        muge: MUGE's own submission, query_id, query_text and item_ids a line.
    """

    predictions: str | os.PathLike | None = None
    features: str | None = None
    dump: str | os.PathLike | None = None
    score: str | os.PathLike | None = None
    muge: str | os.PathLike | None = None

    def write_embeddings(
        self, embeddings: Embeddings, metric: Mapping[str, Any], say: Callable[[str], object]
    ) -> None:
        """All that needs no report.

        Raises:
            UserError: two texts with one id; a dump of a set without pairs.
        """
        if self.predictions:
            from ernie_vil2.evaluation.examples import write_predictions

            path, k = Path(self.predictions), max(metric["ks"])
            transposed = write_predictions(path, embeddings, k, metric["block"])
            say(f"predictions: {path} and {transposed}")
        if self.muge:
            from ernie_vil2.evaluation.examples import write_muge

            write_muge(Path(self.muge), embeddings, max(metric["ks"]), metric["block"])
            say(f"submission: {self.muge}, {len(embeddings.texts)} queries")
        if self.features:
            from ernie_vil2.evaluation.feature_files import write_features

            say("features: {} and {}".format(*write_features(self.features, embeddings)))
        if self.dump:
            from ernie_vil2.evaluation.official_dump import write_dump

            say(f"dump: {self.dump}, {write_dump(Path(self.dump), embeddings)} pairs")

    @property
    def of_embeddings(self) -> bool:
        """Whether anything is wanted that is made of embeddings."""
        return any((self.predictions, self.features, self.dump, self.muge))

    def write_score(self, report: Mapping[str, Any], say: Callable[[str], object]) -> None:
        """The score of those directions that the report has."""
        if self.score:
            from ernie_vil2.evaluation.predictions import write_score

            path = Path(self.score)
            transposed = path.with_name(f"{path.stem}.tr{path.suffix}")
            files = {"text_to_image": path, "image_to_text": transposed}
            written = {d: file for d, file in files.items() if d in report}
            for direction, file in written.items():
                write_score(file, report[direction])
            say(f"score: {' and '.join(map(str, written.values()))}")
