"""Embed the images and texts of a data set, sharded over ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from ernie_vil2 import distributed
from ernie_vil2.data.records import BadRecord, Record, Records
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.batches import Rows, refuse_bad
from ernie_vil2.evaluation.embeddings import Embeddings

_Place = tuple[int, int]  # of a text in the set: (its row, which of the row's texts)


class Part:
    """What one rank has read and embedded.

    Attributes:
        image_rows: image id -> its row.
        images: embeddings of these, arrays [n, D].
        labels: image id -> label of its class, where it was asked for.
        texts: a text's place in the set -> (text, id). A caption is a text of its own, though
            another may read alike, unless its format says which are one.
        text_embeds: embeddings of these, arrays [n, D].
        pairs: (place of a text, image id).
        bad: what could not be read.
        stopped: whether it was told to stop before the end.
    """

    def __init__(self) -> None:
        self.image_rows: dict[str, int] = {}
        self.images: list[np.ndarray] = []
        self.labels: dict[str, str | None] = {}
        self.texts: dict[_Place, tuple[str, Any]] = {}
        self.text_embeds: list[np.ndarray] = []
        self.pairs: list[tuple[_Place, str]] = []
        self.bad: list[BadRecord] = []
        self.stopped = False

    def add(self, batch: dict[str, Any], captions: bool = True) -> np.ndarray:
        """Note a batch of `Rows`, with its captions or without; returns its new images' pixels."""
        new, number = [], 0
        for row in batch["rows"]:
            if row.image_id:
                if row.image_id not in self.image_rows:
                    self.image_rows[row.image_id] = row.number
                    self.labels[row.image_id] = row.label
                    new.append(number)
                number += 1
            for place, text in enumerate(row.captions if captions else ()):
                key, text_id = (row.number, place), None
                if row.text_ids:
                    text_row, text_id = row.text_ids[place]
                    key = (text_row, 0)
                self.texts[key] = text, text_id
                if row.image_id:
                    self.pairs.append((key, row.image_id))
        self.bad += batch["bad"]
        pixels = batch["pixels"]
        return pixels if len(new) == len(pixels) else pixels[new]


def embed_records(
    model: Any,
    reader: Records,
    transform: Callable[[Any], np.ndarray],
    tokenizer: Callable[..., np.ndarray],
    batch_size: int,
    num_workers: int = 0,
    progress: Callable[[], object] = lambda: None,
    *,
    normalise: Callable[[paddle.Tensor], paddle.Tensor] = lambda pixels: pixels,
    timeout: float | None = None,
    skip: Callable[[BadRecord], object] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    label: Callable[[Record], str] | None = None,
    captions: bool = True,
    one_text: bool = False,
) -> Embeddings | None:
    """`Embeddings` of all records, complete on every rank; rows with equal ids are one image.

    Args:
        model: what has `encode_image` and `encode_text`, as `DualEncoder`.
        reader, transform, batch_size, num_workers, timeout, label: as in `Rows`.
        tokenizer: texts -> int64 [N, L].
        progress: called after each batch.
        normalise: makes of a batch of what `transform` gives, on the device, what the model takes.
        skip: called with the BadRecord of each row that cannot be read; None: such a row is an
            error.
        stopping: asked before each batch; where one rank's says True, all ranks get None.
        captions: False: images alone.
        one_text: as in `merge`.

    Raises:
        UserError: a bad row, on every rank.
    """
    part = Part()
    rows = Rows(reader, transform, batch_size, num_workers, timeout, label)
    with paddle.no_grad(), contextlib.closing(iter(rows)) as batches:
        while not (part.stopped or (part.bad and not skip)):
            batch = next(batches, None)
            if batch is None:
                break
            pixels = part.add(batch, captions)
            if len(pixels):
                pixels = normalise(paddle.to_tensor(pixels))
                part.images.append(model.encode_image(pixels).numpy())
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
    else:
        for error in part.bad:
            skip(error)
    return merge(parts, captions, one_text)


def merge(parts: Sequence[Part], captions: bool = True, one_text: bool = False) -> Embeddings:
    """The ranks' parts as one; what stands on two ranks was embedded on both.

    Args:
        one_text: captions that read alike are one text, the first, which has the images of all.

    Raises:
        UserError: no image; no text, unless `captions` is False.
    """
    # image id -> (number of its embedding, row, label)
    images: dict[str, tuple[int, int, str | None]] = {}
    texts: dict[_Place, tuple[int, str, Any]] = {}  # -> (number of its embedding, text, id)
    offset_image = offset_text = 0
    for part in parts:
        for place, (image_id, row) in enumerate(part.image_rows.items(), offset_image):
            images.setdefault(image_id, (place, row, part.labels.get(image_id)))
        for place, key in enumerate(part.texts, offset_text):
            texts.setdefault(key, (place, *part.texts[key]))
        offset_image, offset_text = (
            offset_image + len(part.image_rows),
            offset_text + len(part.texts),
        )
    if not images or (captions and not texts):
        raise UserError(
            f"the set has {len(images)} images and {len(texts)} texts that can be read: retrieval "
            "needs some of both, classification images"
        )
    number_of = {image_id: number for number, image_id in enumerate(images)}
    places, stands_for = sorted(texts), {key: key for key in texts}
    if one_text:
        first: dict[str, _Place] = {}  # text -> its first place
        stands_for = {key: first.setdefault(texts[key][1], key) for key in places}
        places = list(first.values())
    owned: dict[_Place, set[int]] = {key: set() for key in places}
    for key, image_id in (pair for part in parts for pair in part.pairs):
        owned[stands_for[key]].add(number_of[image_id])
    kept_images = [place for place, _, _ in images.values()]
    kept_texts = [texts[key][0] for key in places]
    image_embeds = np.concatenate([e for part in parts for e in part.images])[kept_images]
    text_embeds = [e for part in parts for e in part.text_embeds] or [image_embeds[:0]]
    return Embeddings(
        image_ids=list(images),
        image_rows=np.array([row for _, row, _ in images.values()]),
        image_embeds=image_embeds,
        texts=[texts[key][1] for key in places],
        text_ids=[texts[key][2] for key in places],
        text_embeds=np.concatenate(text_embeds)[kept_texts],
        images_of_text=[sorted(owned[key]) for key in places],
        bad_records=sum(len(part.bad) for part in parts),
        labels=[label for _, _, label in images.values()],
    )


def pairs_of_parts(
    embeddings: Embeddings, ends: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, list[list[int]]]]:
    """Image and text embeddings and `images_of_text` of each part of a set.

    Args:
        ends: the record after each part's last one. An image belongs to one part, a text to that of
            its images; a text without an image is left out.
    """
    part_of_image = np.searchsorted(ends, embeddings.image_rows, side="right")
    found = []
    for part in range(len(ends)):
        images = np.flatnonzero(part_of_image == part)
        number_of = {int(image): number for number, image in enumerate(images)}
        texts = [
            text
            for text, owned in enumerate(embeddings.images_of_text)
            if owned and owned[0] in number_of
        ]
        owned = [[number_of[i] for i in embeddings.images_of_text[text]] for text in texts]
        found.append((embeddings.image_embeds[images], embeddings.text_embeds[texts], owned))
    return found
