"""Embed the images and texts of a data set, sharded over ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle

from ernie_vil2 import distributed
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.batches import Rows, refuse_bad


class Embeddings(NamedTuple):
    """A set's images and texts, each once, in the order of the set.

    image_embeds float32 [N, D], text_embeds float32 [M, D], both L2-normalised; image_rows int64
    [N], an image's record in the reader; text_ids [M], a text's id in its format, None where it
    has none; images_of_text [M], lists of the images that a text belongs to, maybe empty;
    bad_records, how many rows were left out.
    """

    image_ids: list
    image_rows: np.ndarray
    image_embeds: np.ndarray
    texts: list
    text_ids: list
    text_embeds: np.ndarray
    images_of_text: list
    bad_records: int


class _Part:
    """What one rank has read and embedded."""

    def __init__(self):
        self.image_rows, self.images = {}, []  # image id -> row; arrays [n, D]
        # A text's place in the set, its row and which of the row's, -> (text, id). A caption is a
        # text of its own, though another may read alike, unless its format says which are one.
        self.texts, self.text_embeds = {}, []
        self.pairs = []  # (place of the text, image id)
        self.bad = []  # BadRecord
        self.stopped = False

    def add(self, batch: dict) -> np.ndarray:
        """Note a batch of `Rows`; returns the pixels of its images that are new."""
        new, number = [], 0
        for row in batch["rows"]:
            if row.image_id:
                if row.image_id not in self.image_rows:
                    self.image_rows[row.image_id] = row.number
                    new.append(number)
                number += 1
            for place, text in enumerate(row.captions):
                key, text_id = (row.number, place), None
                if row.text_ids:
                    text_row, text_id = row.text_ids[place]
                    key = (text_row, 0)
                self.texts[key] = text, text_id
                if row.image_id:
                    self.pairs.append((key, row.image_id))
        self.bad += batch["bad"]
        return batch["pixels"][new]


def embed_records(
    model,
    reader,
    transform,
    tokenizer,
    batch_size: int,
    num_workers: int = 0,
    progress: Callable = lambda: None,
    *,
    timeout: float | None = None,
    skip: Callable | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Embeddings | None:
    """`Embeddings` of all records, complete on every rank; rows with equal ids are one image.

    progress: called after each batch. num_workers, timeout: as in `Rows`. skip: called with the
    BadRecord of each row that cannot be read; None: such a row is an error.
    stopping: asked before each batch; where one rank's says True, all ranks get None.
    Raises UserError for a bad row, on every rank.
    """
    part = _Part()
    rows = Rows(reader, transform, batch_size, num_workers, timeout)
    with paddle.no_grad(), contextlib.closing(iter(rows)) as batches:
        while not (part.stopped or (part.bad and not skip)):
            batch = next(batches, None)
            if batch is None:
                break
            pixels = part.add(batch)
            if len(pixels):
                part.images.append(model.encode_image(paddle.to_tensor(pixels)).numpy())
            progress()
            part.stopped = stopping()
        texts = [] if part.bad and not skip else [text for text, _ in part.texts.values()]
        for start in range(0, len(texts), batch_size):
            part.stopped = part.stopped or stopping()
            if part.stopped:
                break
            input_ids = tokenizer(texts[start : start + batch_size], pad_to="longest")
            part.text_embeds.append(model.encode_text(paddle.to_tensor(input_ids)).numpy())
            progress()
    # a bad record or a signal on one rank must end all of them, not leave the others waiting
    parts = distributed.all_gather_objects(part)
    if any(part.stopped for part in parts):
        return None
    bad = [error for part in parts for error in part.bad]
    if skip is None:
        refuse_bad(bad)
    for error in part.bad:
        skip(error)
    return _merge(parts)


def _merge(parts: list) -> Embeddings:
    """The ranks' parts as one; what stands on two ranks was embedded on both."""
    images, texts, offset_image, offset_text = {}, {}, 0, 0
    for part in parts:
        for place, (image_id, row) in enumerate(part.image_rows.items(), offset_image):
            images.setdefault(image_id, (place, row))
        for place, key in enumerate(part.texts, offset_text):
            texts.setdefault(key, (place, *part.texts[key]))
        offset_image, offset_text = (
            offset_image + len(part.image_rows),
            offset_text + len(part.texts),
        )
    if not images or not texts:
        raise UserError(
            f"the set has {len(images)} images and {len(texts)} texts that can be read: retrieval "
            "needs some of both"
        )
    number_of = {image_id: number for number, image_id in enumerate(images)}
    places = sorted(texts)
    owned = {key: set() for key in places}
    for key, image_id in (pair for part in parts for pair in part.pairs):
        owned[key].add(number_of[image_id])
    kept_images, kept_texts = [place for place, _ in images.values()], [texts[k][0] for k in places]
    return Embeddings(
        image_ids=list(images),
        image_rows=np.array([row for _, row in images.values()]),
        image_embeds=np.concatenate([e for part in parts for e in part.images])[kept_images],
        texts=[texts[key][1] for key in places],
        text_ids=[texts[key][2] for key in places],
        text_embeds=np.concatenate([e for part in parts for e in part.text_embeds])[kept_texts],
        images_of_text=[sorted(owned[key]) for key in places],
        bad_records=sum(len(part.bad) for part in parts),
    )
