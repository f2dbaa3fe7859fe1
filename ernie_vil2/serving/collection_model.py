"""The model of a collection, for who asks it once."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.data.arrays import Floats
from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import Collection
from ernie_vil2.search.identity import model_identity
from ernie_vil2.search.models import check_model
from ernie_vil2.serving.tower import Tower, TowerOptions

EXPORTED = "exported"  # the note that tools/index.py leaves of its model's folder


class CollectionModel:
    """`search.searcher.Encoder` with the towers of a collection's model, each loaded when needed.

    A query in words needs no image tower, and pictures of the collection need none at all.

    Args:
        collection: whose notes say what model it is, and where it was.
        folder: where it is now, if elsewhere.
    """

    def __init__(self, collection: Collection, folder: str | None = None):
        self._collection, self._folder = collection, folder

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """float32 [N, D], L2-normalised. Raises UserError: see `artefact`."""
        return self._text(self.artefact.tokenizer()(list(texts), pad_to="longest"))

    def encode_image(self, images: Sequence[bytes]) -> Floats:
        """float32 [N, D], L2-normalised. Raises ImageError, UserError: see `artefact`."""
        transform = self.artefact.transform()
        return self._image(np.stack([transform(image) for image in images]))

    @functools.cached_property
    def artefact(self) -> Artefact:
        """The model's folder.

        Raises:
            UserError: it is not known or not there, or holds another model.
        """
        notes, uri = self._collection.notes, self._collection.uri
        folder = self._folder or notes.get(EXPORTED)
        if folder is None:
            raise UserError(f"{uri} does not know the folder of its model: name it with --model")
        if not os.path.isdir(folder):
            raise UserError(
                f"{folder}, where the model of {uri} was, is no folder: name it with --model"
            )
        artefact = Artefact.open(folder)
        check_model(uri, notes.get("model"), model_identity(artefact))
        return artefact

    @functools.cached_property
    def _text(self) -> Tower:
        return self._tower("text")

    @functools.cached_property
    def _image(self) -> Tower:
        return self._tower("image")

    def _tower(self, name: str) -> Tower:
        tower = Tower(self.artefact, name, TowerOptions())
        tower.verify()
        return tower
