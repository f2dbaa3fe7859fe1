"""The model as a `Searcher` takes it, in the threads that search: through the server's batcher."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ernie_vil2.data.arrays import Floats
from ernie_vil2.errors import UserError
from ernie_vil2.serving.http.embedder import Embedder, Row
from ernie_vil2.serving.items import ItemError
from ernie_vil2.serving.web.errors import ApiError

_KEPT = 4096  # vectors of pictures: 3 KB each
_PREFIX = "sha256:"


class UnknownImage(UserError):
    """A name of an image that was not sent lately."""


class BatchedEncoder:
    """`search.searcher.Encoder` over the batcher.

    A picture is embedded before the search begins (`add_images`), under the limits of every other
    one that a client sends; the searcher sees its name alone. So a client that scrolls need not
    send it again, and no picture is kept, only its vector.
    """

    def __init__(self, embedder: Embedder):
        self._embedder = embedder
        self._vectors: OrderedDict[bytes, Row] = OrderedDict()
        self._mutex = threading.Lock()  # guards `_vectors`

    async def add_images(self, images: Sequence[str | bytes]) -> list[str]:
        """Embed encoded files, or base64 of them, and give each one's name; names stay names.

        Raises:
            ApiError: 422 with the item's error, or a name that is not known here.
        """
        names = [_name(image) for image in images]
        new = {
            name: image
            for name, image in zip(names, images)
            if image != name and not self._knows(name)
        }
        rows = dict(zip(new, await self._embedder.images(list(new.values()))))
        for index, name in enumerate(names):
            row = rows.get(name)
            if isinstance(row, ItemError):
                raise ApiError(422, row.code, row.message, index)
            if row is not None:
                self._keep(name, row)
            elif not self._knows(name):
                message = f"no image {name[:80]} was sent lately: send it again"
                raise ApiError(422, "unknown_image", message, index)
        return names

    def encode_image(self, images: Sequence[bytes]) -> Floats:
        """float32 [N, D] of names, as bytes."""
        with self._mutex:
            missing = [image for image in images if image not in self._vectors]
            if missing:  # so many others came since
                raise UnknownImage("the images were sent too long ago: send them again")
            return np.stack([self._vectors[image] for image in images])

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """float32 [N, D]. Raises ApiError 422 for one that has no embedding."""
        ids = self._embedder.tokenised(texts)
        for item in ids:
            if isinstance(item, ItemError):
                raise ApiError(422, item.code, item.message)
        future = self._embedder.batcher.submit("text", ids)
        return np.stack(future.result(self._embedder.limits.seconds))

    def _knows(self, name: str) -> bool:
        with self._mutex:
            known = name.encode() in self._vectors
            if known:
                self._vectors.move_to_end(name.encode())
            return known

    def _keep(self, name: str, row: Row) -> None:
        with self._mutex:
            self._vectors[name.encode()] = row
            while len(self._vectors) > _KEPT:
                self._vectors.popitem(last=False)


def _name(image: str | bytes) -> str:
    if isinstance(image, str) and image.startswith(_PREFIX):
        return image
    data = image.encode() if isinstance(image, str) else image
    return _PREFIX + hashlib.sha256(data).hexdigest()
