"""Folders of pictures for tests of an index, and what the index has of them."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.search.bad import BadPictures
from ernie_vil2.search.batches import Embedder
from ernie_vil2.search.collection import Picture
from ernie_vil2.search.folders import folder_options, make_folders
from ernie_vil2.search.identity import model_identity
from ernie_vil2.search.indexer import Indexer, Summary
from ernie_vil2.search.open import open_collection
from tests.support.shapes import COLORS, SHAPES, draw


def write_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """So many different PNGs, some of them in folders below."""
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        below = folder / ("", "海边", "a b/c")[number % 3]
        below.mkdir(parents=True, exist_ok=True)
        path = below / f"{seed}-{number}.png"
        path.write_bytes(draw(list(COLORS)[number % 4], SHAPES[number // 4 % 4], rng))
        paths.append(path)
    return paths


def content(db: Path | str) -> dict[str, tuple[Picture, bytes]]:
    """Path -> picture and the bytes of its vector."""
    with contextlib.closing(open_collection(str(db))) as collection:
        pictures = sorted(collection.pictures(), key=lambda x: x.path)
        vectors = collection.vectors([x.id for x in pictures])
    return {x.path: (x, vector.tobytes()) for x, vector in zip(pictures, vectors)}


class Index:
    """A collection at `db`, brought up to date by the code of the command, in this process.

    Attributes:
        embedded: pictures that the model got in all.
        bad: those listed in `bad_file`; None: beside a folder's own files.
    """

    def __init__(self, db: Path | str, artefact: Artefact, tower, bad_file: Path | None = None):
        self.db, self.artefact, self._tower, self.embedded = db, artefact, tower, 0
        self._bad_file = bad_file or Path(db) / "bad.jsonl"
        self.bad = BadPictures(self._bad_file)

    def _embed(self, rows: np.ndarray) -> np.ndarray:
        self.embedded += len(np.unique(rows.reshape(len(rows), -1), axis=0))
        return self._tower(rows)

    @contextlib.contextmanager
    def opened(self, *folders: Path, allow_empty=False, exclude=(), links=False, tags_file=None):
        """An indexer of the folders, and its collection."""
        options = folder_options(exclude, links, tags_file)
        wanted = make_folders({str(folder): options for folder in folders}, allow_empty)
        identity, dim = model_identity(self.artefact), self.artefact.embed_dim
        with contextlib.closing(
            open_collection(str(self.db), identity, dim=dim, write=True)
        ) as collection:
            self.bad = BadPictures(self._bad_file)
            embedder = Embedder(lambda: self._embed, 16)
            transform = self.artefact.transform()
            yield Indexer(collection, wanted, transform, embedder, self.bad, 2), collection

    def update(self, *folders: Path, **options) -> Summary:
        with self.opened(*folders, **options) as (indexer, _):
            return indexer.update()

    def content(self) -> dict[str, tuple[Picture, bytes]]:
        return content(self.db)


def counts(summary: Summary) -> dict[str, int]:
    """Its numbers that are not 0."""
    names = ("there", "new", "changed", "moved", "deleted", "bad")
    return {name: getattr(summary, name) for name in names if getattr(summary, name)}


def anew(index: Index, *folders: Path, **options) -> dict[str, tuple[Picture, bytes]]:
    """What an index has that is made of the folders as they are now."""
    other = Index(index.db.with_name("anew.db"), index.artefact, index._tower)
    shutil.rmtree(other.db, ignore_errors=True)
    other.update(*folders, **options)
    return other.content()
