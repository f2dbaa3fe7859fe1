"""What taggers on another project's exported model share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_vil2.data.arrays import Array, Pixels
from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError
from ernie_vil2.tagging import preprocess
from ernie_vil2.tagging.network import ModelFiles, Network
from ernie_vil2.tagging.pictures import each_picture
from ernie_vil2.tagging.tags import Choice, Tags


class ExportedTagger:
    """A `Tagger` that prepares pictures and runs a model on them.

    Args:
        kind: for `origin`.
        files: of the model.
        stated: the steps that its configuration states.
        table: what steps there are, of `preprocess.py`.
        choice: which of what it finds becomes tags.
        device, threads: where it runs.

    Raises:
        UserError: an unknown step, now and not at the first picture.
    """

    def __init__(
        self,
        kind: str,
        files: ModelFiles,
        stated: Sequence[tuple[str, Mapping[str, Any]]],
        table: Mapping[str, Any],
        choice: Choice,
        device: str,
        threads: int,
    ):
        self.origin = f"{kind} {files.origin}"
        self.files, self.choice = files, choice
        self.device, self.threads = device, threads
        self._stated, self._table = stated, table
        self._make_steps()
        self._network: Network | None = None

    def _make_steps(self) -> None:
        try:
            self._steps = preprocess.steps(self._stated, self._table)
        except UserError as error:
            raise UserError(f"{self.files.path}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_steps": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_steps()

    def tag(self, records: Sequence[Record]) -> list[Tags]:
        return each_picture(records, lambda data: self.prepare(decode_image(data)), self._tags)

    def _tags(self, pictures: Sequence[preprocess.Prepared]) -> list[Tags]:
        raise NotImplementedError

    def prepare(self, image: Pixels) -> preprocess.Prepared:
        """A picture as the model takes it. Raises ImageError."""
        picture = preprocess.Prepared.of(image)
        for step in self._steps:
            step(picture)
        return picture

    def _run_on(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs of the model, which the process opens when it first needs it."""
        if self._network is None:
            self._network = Network(self.files, self.device, self.threads)
        return self._network(feeds)
