"""The demo's pictures as a collection, with the vectors and words that its model gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ernie_vil2.search.collection import Picture
from ernie_vil2.search.open import open_collection
from tests.support.collections import TAGS, picture, unit
from tests.support.paths import ROOT


class Demo:
    """What scripts/demo_vectors.py wrote; an `Encoder` of the words that are in it.

    Attributes:
        pictures: in two folders.
        vectors: theirs, float32 [800, D].
        present, own: names, and the picture that each is of.
        absent: words that no picture shows.
    """

    def __init__(self) -> None:
        data = np.load(ROOT / "tests/search/demo.npz")
        self.vectors = unit(data["pictures"])
        self.pictures: list[Picture] = []
        for place, name in enumerate(data["names"].tolist()):
            path = f"/emoji/{'abc'[place % 3]}/{name}.png"
            tags = TAGS[: place % 4]
            # no two near-duplicates: hashes far apart
            self.pictures.append(picture(path, taken=10**9 + place, tags=tags))
        texts, self._own = data["texts"].tolist(), data["own"]
        self.present, self.absent, self.background = texts[:400], texts[400:600], texts[600:]
        self.own = self._own.tolist()
        self._text = dict(zip(texts, unit(data["text_vectors"])))
        self.encoded: list[str] = []  # all that was asked for

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def collection(self, uri: Path | str, count: int | None = None):
        """The first `count` pictures, in a new collection; closed by who asks."""
        made = open_collection(str(uri), {"weights": "demo"}, dim=self.dim, write=True)
        made.add(self.pictures[:count], self.vectors[:count])
        return made

    def encode_text(self, texts) -> np.ndarray:
        self.encoded += texts
        return np.stack([self._text[text] for text in texts])

    def encode_image(self, images) -> np.ndarray:
        """An "image" is the number of a picture."""
        return np.stack([self.vectors[int(image)] for image in images])
