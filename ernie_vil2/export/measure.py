"""What a precision costs: embeddings and retrieval of an exported model against the trained one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import paddle
from paddle.io import Subset

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.artefact.golden import cosines
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.embed import embed_records
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.retrieval import evaluate_retrieval
from ernie_vil2.serving.gpu import device_for
from ernie_vil2.serving.predictor import Predictor


class Measure:
    """Compares precisions of an artefact with its fp32 on some records of a data set.

    Args:
        artefact: with fp32's programs.
        dataset: the node of `DataLoader.Eval.dataset`.
        records: how many of its rows, drawn at random, are embedded.
        min_cosine: the least that an embedding may have with fp32's.
        max_drop: the most that the mean recall (R@1, 5, 10, both directions) may fall, in 0..1.
        seed: of the draw.

    Raises:
        UserError: a data set or record that cannot be read.
    """

    def __init__(
        self,
        artefact: Artefact,
        dataset: Mapping[str, Any],
        records: int,
        min_cosine: float,
        max_drop: float,
        seed: int = 0,
    ):
        reader = build_reader(**dataset)
        chosen = np.random.default_rng(seed).permutation(len(reader))[:records]
        self.artefact, self.records = artefact, Subset(reader, np.sort(chosen).tolist())
        self.min_cosine, self.max_drop = min_cosine, max_drop
        self.exact = self._embed("fp32")
        self.recall = self._recall(self.exact)

    def __call__(self, precision: str) -> dict[str, float]:
        """What `inference.yml` keeps of a precision.

        Returns:
            `image_cosine` and `text_cosine`, the lowest over all records; `mean_recall` and
            `mean_recall_fp32`, in 0..1; the number of `records`; `min_cosine`.

        Raises:
            UserError: below a threshold.
        """
        embeddings = self._embed(precision)
        found: dict[str, float] = {
            "image_cosine": _lowest(embeddings.image_embeds, self.exact.image_embeds),
            "text_cosine": _lowest(embeddings.text_embeds, self.exact.text_embeds),
            "mean_recall": self._recall(embeddings),
            "mean_recall_fp32": self.recall,
            "records": len(self.records),
            "min_cosine": self.min_cosine,
        }
        for tower in ("image", "text"):
            if not found[f"{tower}_cosine"] >= self.min_cosine:  # NaN too
                raise UserError(
                    f"in {precision} a {tower} embedding has a cosine of "
                    f"{found[f'{tower}_cosine']:.4f} with fp32's, at least {self.min_cosine} is "
                    f"asked for: leave {precision} out of --precision, or lower --min-cosine"
                )
        if found["mean_recall"] < self.recall - self.max_drop:
            raise UserError(
                f"in {precision} the mean recall is {found['mean_recall']:.1%}, fp32's "
                f"{self.recall:.1%}, and at most {self.max_drop:.1%} less is asked for: leave "
                f"{precision} out of --precision, or raise --max-recall-drop"
            )
        return found

    def _embed(self, precision: str) -> Embeddings:
        # bytes and strings go through the artefact's own transform and tokenizer
        model = _AsModel(Predictor(self.artefact, precision, device_for(precision), verify=False))
        embeddings = embed_records(
            model, self.records, self.artefact.transform(), self.artefact.tokenizer(), 32
        )
        assert embeddings is not None  # nothing stops it
        return embeddings

    @staticmethod
    def _recall(embeddings: Embeddings) -> float:
        report = evaluate_retrieval(
            embeddings.image_embeds, embeddings.text_embeds, embeddings.images_of_text, bootstrap=0
        )
        return report["mean_recall"]


def calibration(
    artefact: Artefact, dataset: Mapping[str, Any], records: int, seed: int = 0
) -> dict[str, list[np.ndarray]]:
    """What the programs are fed for random records of a data set.

    Each text is a batch, as long as it is; rows that cannot be read are left out.

    Args:
        artefact: with fp32's programs.
        dataset: the node of `DataLoader.Train.dataset`.
        records: how many of its rows are drawn.
        seed: of the draw.

    Returns:
        {"image", "text"}: batches for each program.

    Raises:
        UserError: none of the rows can be read.
    """
    reader = build_reader(**dataset)
    transform, tokenizer = artefact.transform(), artefact.tokenizer()
    images: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    for row in np.random.default_rng(seed).permutation(len(reader))[:records]:
        with suppress(BadRecord, ImageError):
            record = reader[int(row)]
            images.append(transform(record.image)[None])
            texts.extend(tokenizer([caption], pad_to="longest") for caption in record.captions)
    if not images:
        raise UserError(f"none of {records} records can be read: int8 needs some to calibrate on")
    return {"image": images, "text": texts}


class _AsModel:
    """A Predictor as `embed_records` calls a model."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def encode_image(self, pixel_values: paddle.Tensor) -> paddle.Tensor:
        return paddle.to_tensor(self.predictor.embed_pixels(pixel_values.numpy()))

    def encode_text(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        return paddle.to_tensor(self.predictor.embed_ids(input_ids.numpy()))


def _lowest(a: np.ndarray, b: np.ndarray) -> float:
    return float(cosines(a, b).min())
