"""One item of a request, a text or an image: to what its tower takes, or why there is nothing.

Every server prepares its items here, so that the same item gets the same answer from each. Knows
nothing of HTTP, of Paddle Serving and of models.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import TooManyPixels, decode_image
from ernie_vil2.serving import memory

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ItemLimits:
    """What one item may have; how many bytes, the limit of a request's body says.

    Attributes:
        text_chars: characters of a text.
        pixels: of an image, read from its header before anything is decoded.
        decode_seconds: of a thread's time, to decode an image.
    """

    text_chars: int = 2000
    pixels: int = 50_000_000
    decode_seconds: float = 5


@dataclass(frozen=True)
class ItemError:
    """Why one item of a list has no embedding: a value that stands in the item's place.

    Attributes:
        code: for programs, such as "bad_image".
        message: one line for people.
    """

    code: str
    message: str

    def at(self, index: int) -> dict:
        return {"code": self.code, "message": self.message, "index": index}


def prepare_text(item: object, tokenizer: Tokenizer, limits: ItemLimits) -> np.ndarray | ItemError:
    """A text's token ids, int64 [max_len], or why there are none.

    A text is empty if it has no token: such as one of white space alone, or of characters that
    cannot be seen.
    """
    if not isinstance(item, str):
        return _no_string(item)
    if len(item) > limits.text_chars:
        message = f"{len(item)} characters, at most {limits.text_chars} are read"
        return ItemError("text_too_long", message)
    if "\0" in item:
        return ItemError("bad_text", f"a NUL character at {item.index(chr(0))}")
    if _SURROGATE.search(item):
        return ItemError("bad_text", "no valid Unicode: holds half of a surrogate pair")
    ids = tokenizer([item])[0]
    if np.count_nonzero(ids != tokenizer.pad_id) <= 2:  # [CLS] and [SEP]
        return ItemError("empty_text", "no token in the text")
    return ids


def prepare_image(
    item: object, transform: Callable[[np.ndarray], np.ndarray], limits: ItemLimits
) -> np.ndarray | ItemError:
    """What the image tower's program takes for one image, or why there is nothing.

    Args:
        item: an encoded file, or a string with base64 of one.
        transform: `Artefact.transform()`.
        limits: of the item.
    """
    if isinstance(item, str):
        try:
            item = base64.b64decode(item, validate=True)
        except ValueError:  # binascii.Error, or characters that are not ASCII
            return ItemError("bad_base64", "not base64 (RFC 4648, section 4, no data: prefix)")
    if not isinstance(item, bytes):
        return _no_string(item)
    size = 0
    try:
        pixels = decode_image(item, max_pixels=limits.pixels, seconds=limits.decode_seconds)
        size = pixels.nbytes
        prepared = np.ascontiguousarray(transform(pixels))  # not a view of all pixels
        del pixels
        return prepared
    except TooManyPixels as error:
        return ItemError("too_many_pixels", str(error))
    except ImageError as error:
        return ItemError("bad_image", str(error))
    finally:
        if size > memory.LARGE:
            memory.trim()


def json_kind(value: object) -> str:
    """What a JSON value is, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _no_string(item: object) -> ItemError:
    return ItemError("no_string", f"is {json_kind(item)}, expected a string")
