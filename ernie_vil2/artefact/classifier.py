"""The zero-shot classifier beside an exported model's programs: names and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_vil2.errors import UserError


class Classifier(NamedTuple):
    """What the texts of some classes come to.

    Attributes:
        names: [C] of the classes, which two may share.
        templates: that their prompts were made with.
        embeds: float32 [C, D], L2-normalised.
    """

    names: list[str]
    templates: list[str]
    embeds: np.ndarray

    def save(self, path: Path) -> None:
        """Write all in one `.npz`."""
        np.savez(
            path,
            names=np.array(self.names),
            templates=np.array(self.templates),
            embeds=self.embeds,
        )

    @classmethod
    def load(cls, path: Path, embed_dim: int) -> Classifier:
        """Read what `save` wrote.

        Raises:
            UserError: a damaged file, or one of another model.
        """
        try:
            # opened here: np.load leaves a damaged file open
            with open(path, "rb") as opened, np.load(opened) as file:
                found = cls(file["names"].tolist(), file["templates"].tolist(), file["embeds"])
        except Exception as error:  # a damaged zip archive fails in many ways
            raise UserError(f"{path} is damaged ({error}): export the model again") from None
        expected = (len(found.names), embed_dim)
        if found.embeds.shape != expected or found.embeds.dtype != np.float32:
            raise UserError(
                f"{path} has {found.embeds.dtype} {list(found.embeds.shape)}, expected float32 "
                f"{list(expected)}: export the model again"
            )
        return found


def most_probable(
    names: Sequence[str], probabilities: np.ndarray, top: int
) -> list[list[tuple[str, float]]]:
    """(name, probability) of the `top` most probable classes of each image, the best first.

    Args:
        probabilities: [N, C].
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [[(names[i], float(row[i])) for i in best] for row, best in zip(probabilities, order)]
