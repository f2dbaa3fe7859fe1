"""What clients send to the Paddle Serving service, checked and prepared item by item."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ernie_vil2 import runtime
from ernie_vil2.artefact.description import CLASSIFIER
from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.serving.items import ItemError, json_kind, prepare_image, prepare_text
from ernie_vil2.serving.paddle_serving.settings import Limits

BAD_REQUEST, TOO_LARGE = 51, 52  # err_no; 51 to 99 are a service's own in Paddle Serving
_KEYS = ("images", "image", "texts", "text", "similarity", "classify")


class RequestError(UserError):
    """A request of which no part can be answered; `code` is the answer's err_no."""

    def __init__(self, message: str, code: int = BAD_REQUEST):
        super().__init__(message)
        self.code = code


class Message(Protocol):
    """What is read of a message of Paddle Serving's pipeline."""

    key: Sequence[str]
    value: Sequence[str]
    tensors: Sequence


class Reader:
    """Reads `{"key": [...], "value": [...]}`, in which every value is a string.

    images: a JSON list of base64-encoded image files; image: one of them, as it is.
    texts: a JSON list of strings; text: one string, as it is.
    similarity: "true" for the cosines of each image with each text as well.
    classify: "true" for the probabilities of the exported classes for each image.

    Args:
        artefact: whose tokenizer and transform prepare the items.
        limits: of a request and of its items.
        moved: called after each image.
    """

    def __init__(self, artefact: Artefact, limits: Limits, moved: Callable[[], None]):
        self.limits, self.moved = limits, moved
        # beside more of them a text would get too small a share of the processor
        self.decoding = threading.BoundedSemaphore(min(4, runtime.usable_cores()))
        self.transform, self.tokenizer = artefact.transform(), artefact.tokenizer()
        size = artefact.image_size
        self.no_images = np.zeros([0, 3, size, size], np.float32)
        if artefact.preprocess:
            self.no_images = np.zeros([0, size, size, 3], np.uint8)
        self.no_texts = self.tokenizer([])
        self.classes = CLASSIFIER in artefact.files

    def prepare(self, request: Message) -> dict:
        """A job: for each tower its rows (`image`: what the program takes, `text`: int64
        [n, max_len]), `<tower>_count` items asked for and `<tower>_errors` {index: message}.

        Raises:
            RequestError: no part of the request can be answered.
        """
        # Paddle Serving would unpickle a tensor's bytes, and so run what a client wrote there
        if request.tensors:
            raise RequestError('tensors are not taken: expected strings in "key" and "value"')
        if len(request.key) != len(request.value):
            raise RequestError(
                f"{len(request.key)} keys and {len(request.value)} values: expected as many"
            )
        values = dict(zip(request.key, request.value))
        for key in values:
            if key not in _KEYS:
                raise RequestError(f'key "{key[:60]}"{did_you_mean(key[:60], _KEYS)}')
        if len(values) != len(request.key):
            raise RequestError(f"a key is given twice: {', '.join(request.key)}")

        images, texts = (self.items(values, tower) for tower in TOWERS)
        if not images and not texts:
            raise RequestError('nothing to embed: expected the key "images" or "texts"')
        similarity, classify = _asked(values, "similarity"), _asked(values, "classify")
        if similarity and not (images and texts):
            raise RequestError("similarity needs images and texts")
        if classify and not images:
            raise RequestError("classify needs images")
        if classify and not self.classes:
            raise RequestError("no classes were exported with the model (--classes)")

        pixels, image_errors = self.each(self.pixels, images)
        ids, text_errors = self.each(self.ids, texts)
        return {
            "image": np.stack(pixels) if pixels else self.no_images,
            "image_count": len(images),
            "image_errors": image_errors,
            "text": np.stack(ids) if ids else self.no_texts,
            "text_count": len(texts),
            "text_errors": text_errors,
            "similarity": similarity,
            "classify": classify,
        }

    def items(self, values: dict, tower: str) -> list:
        """What a request holds under `images` and `image`, or `texts` and `text`."""
        items, most = [], getattr(self.limits, f"{tower}s")
        if f"{tower}s" in values:
            # a list of millions of empty lists would take gigabytes
            if values[f"{tower}s"].count(",") > self.limits.commas:
                raise RequestError(f"{tower}s has more than {self.limits.commas} commas", TOO_LARGE)
            try:
                items = json.loads(values[f"{tower}s"])
            except (ValueError, RecursionError) as error:
                raise RequestError(f"{tower}s is no JSON: {str(error)[:100]}") from None
            if not isinstance(items, list):
                raise RequestError(
                    f"{tower}s is {json_kind(items)}: expected a JSON list of strings"
                )
        if tower in values:
            items = [*items, values[tower]]
        if len(items) > most:
            raise RequestError(
                f"{len(items)} {tower}s, at most {most} in a request: send them in parts",
                TOO_LARGE,
            )
        return items

    def each(
        self, read: Callable[[object], np.ndarray | ItemError], items: list
    ) -> tuple[list[np.ndarray], dict[int, str]]:
        """What could be read of the items, and the others' errors by index."""
        good, errors = [], {}
        end = time.monotonic() + self.limits.seconds
        for index, item in enumerate(items):
            if time.monotonic() > end:
                raise RequestError(
                    f"{index} of {len(items)} items were prepared within {self.limits.seconds} s: "
                    "send them in parts",
                    TOO_LARGE,
                )
            prepared = read(item)
            if isinstance(prepared, ItemError):
                errors[index] = prepared.message
            else:
                good.append(prepared)
        return good, errors

    def pixels(self, item: object) -> np.ndarray | ItemError:
        with self.decoding:
            prepared = prepare_image(item, self.transform, self.limits)
        self.moved()
        return prepared

    def ids(self, item: object) -> np.ndarray | ItemError:
        return prepare_text(item, self.tokenizer, self.limits)


def _asked(values: dict, key: str) -> bool:
    """Whether a request asks for what it names by "true"."""
    value = values.get(key, "false").lower()
    if value not in ("true", "false"):
        raise RequestError(f'{key} "{value[:20]}": expected "true" or "false"')
    return value == "true"
