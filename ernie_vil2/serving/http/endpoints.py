"""What each route of the model does with a request that was read and checked."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Union

import numpy as np
from pydantic import BaseModel

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation import classification
from ernie_vil2.serving.http.embedder import Embedder, Row
from ernie_vil2.serving.http.schemas import (
    ClassifyRequest,
    ImagesRequest,
    SimilarityRequest,
    TextsRequest,
)
from ernie_vil2.serving.items import ItemError
from ernie_vil2.serving.web.errors import ApiError

Outcomes = Sequence[Union[Row, ItemError]]  # of each item its embedding, or why there is none
Answer = tuple[dict, Outcomes]  # the answer, and the outcomes that decide its status


class Endpoints:
    """The work of each route: a request's model to its `Answer`."""

    def __init__(self, embedder: Embedder, artefact: Artefact):
        self.embedder = embedder
        self.dim, self.logit_scale = artefact.embed_dim, artefact.logit_scale
        self.prompts, self.classifier = artefact.prompts, artefact.classifier()

    def count(self, body: BaseModel) -> int:
        """How many items a request puts into the queue: texts, images and prompts."""
        count = sum(len(getattr(body, name, ())) for name in ("texts", "images"))
        if isinstance(body, ClassifyRequest) and body.labels is not None:
            count += len(body.labels) * len(self._templates(body))
        return count

    async def embed_text(self, body: TextsRequest) -> Answer:
        return self._embeddings(await self.embedder.texts(body.texts), body.encoding)

    async def embed_image(self, body: ImagesRequest) -> Answer:
        return self._embeddings(await self.embedder.images(body.images), body.encoding)

    def _embeddings(self, rows: Outcomes, encoding: str) -> Answer:
        results = [
            {"index": i, "error": row.at(i)}
            if isinstance(row, ItemError)
            else {"index": i, "embedding": _encode(row, encoding)}
            for i, row in enumerate(rows)
        ]
        return {"dim": self.dim, "results": results}, rows

    async def similarity(self, body: SimilarityRequest) -> Answer:
        texts, images = await asyncio.gather(
            self.embedder.texts(body.texts), self.embedder.images(body.images)
        )
        table = np.full([len(texts), len(images)], None, object)
        logits = table.copy()
        rows, columns = _good(texts), _good(images)
        if rows and columns:
            cosine = np.stack(list(rows.values())) @ np.stack(list(columns.values())).T
            places = np.ix_(list(rows), list(columns))
            table[places] = short_floats(cosine)
            logits[places] = short_floats(self.logit_scale * cosine)
        errors = [
            {"input": name, **item.at(i)}
            for name, items in (("texts", texts), ("images", images))
            for i, item in enumerate(items)
            if isinstance(item, ItemError)
        ]
        answer = {
            "cosine": table.tolist(),
            "logits": logits.tolist(),
            "logit_scale": self.logit_scale,
            "errors": errors,
        }
        # without a good one on either side there is no pair
        return answer, images if rows else texts

    async def classify(self, body: ClassifyRequest) -> Answer:
        if body.labels is None:
            names, labels = self._exported(body)
            images = await self.embedder.images(body.images)
        else:
            names, prompts = body.labels, await self._prompts(body)
            texts, images = await asyncio.gather(
                self.embedder.texts(prompts), self.embedder.images(body.images)
            )
            labels = _labels(texts, len(names))
        results = [
            {"index": i, "error": image.at(i)}
            if isinstance(image, ItemError)
            else {"index": i, **self._classified(names, labels @ image, body.top)}
            for i, image in enumerate(images)
        ]
        if body.top:
            return {"results": results}, images
        return {"labels": names, "results": results}, images

    def _exported(self, body: ClassifyRequest) -> tuple[list[str], np.ndarray]:
        """Names and embeddings of the export's classes. Raises ApiError 422: it has none."""
        if self.classifier is None:
            message = "labels is missing, and no classes were exported with the model (--classes)"
            raise ApiError(422, "no_classes", message)
        if body.templates is not None:
            message = "templates without labels: the exported classes have their own"
            raise ApiError(422, "bad_template", message)
        return self.classifier.names, self.classifier.embeds

    def _classified(self, labels: list[str], cosine: np.ndarray, top: int | None) -> dict:
        """An image's result, by its cosine with each label."""
        probabilities = classification.probabilities(cosine, self.logit_scale)
        best = {"label": labels[int(cosine.argmax())]}
        if top is None:
            return {
                **best,
                "probabilities": probabilities.tolist(),
                "cosine": short_floats(cosine),
            }
        order = np.argsort(-cosine, kind="stable")[:top].tolist()
        rows = zip(order, probabilities[order].tolist(), short_floats(cosine[order]))
        found = [{"label": labels[i], "probability": p, "cosine": c} for i, p, c in rows]
        return {**best, "top": found}

    def _templates(self, body: ClassifyRequest) -> list[str]:
        return self.prompts if body.templates is None else body.templates

    async def _prompts(self, body: ClassifyRequest) -> list[str]:
        """Each label's prompts. Raises ApiError 422: a bad template or label."""
        assert body.labels is not None
        templates = self._templates(body)
        for i, template in enumerate(templates):
            try:
                classification.check_template(template)
            except UserError as error:
                raise ApiError(422, "bad_template", str(error), i) from None
        for i, label in enumerate(await self.embedder.prepare_texts(body.labels)):
            if isinstance(label, ItemError):
                raise ApiError(422, label.code, f"label: {label.message}", i)
        return classification.fill_templates(body.labels, templates)


def _labels(prompts: Outcomes, labels: int) -> np.ndarray:
    """Embeddings [labels, D] of the prompts of each label in turn. Raises ApiError 422."""
    rows, per_label = [], len(prompts) // labels
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, ItemError):
            message = f"label with its template: {prompt.message}"
            raise ApiError(422, prompt.code, message, i // per_label)
        rows.append(prompt)
    # [labels * templates, D] -> [labels, templates, D]
    return classification.label_embeddings(np.stack(rows).reshape(labels, per_label, -1))


def _good(items: Outcomes) -> dict[int, Row]:
    """The embeddings among the items, by index."""
    return {i: item for i, item in enumerate(items) if not isinstance(item, ItemError)}


# -- Numbers ---------------------------------------------------------------------------------------


def short_floats(array: np.ndarray) -> list:
    """Lists of numbers that are short as decimals, and exact.

    Nine digits tell every float32 apart; below 1e-13 the digits become fewer.
    """
    array = np.asarray(array, np.float64)
    exponents = np.floor(np.log10(np.maximum(np.abs(array), 1e-13)))
    scale = 10.0 ** (8 - exponents)  # at most 1e21, which float64 holds exactly
    return (np.round(array * scale) / scale).tolist()


def _encode(row: Row, encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return short_floats(row)
