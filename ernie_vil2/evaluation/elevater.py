"""The file that the ELEVATER challenge takes, as Chinese-CLIP's program writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.classification import probabilities
from ernie_vil2.files import durable

if TYPE_CHECKING:
    from ernie_vil2.models.dual_encoder import DualEncoder

INDEX = "index.json"  # of those sets whose pictures the challenge has in another order
_SCALE = 100.0  # of the cosines, whatever the model's own is: zeroshot_evaluation.py
_DIGITS = 6


@dataclass(frozen=True)
class Submission:
    """A file for the challenge.

    Attributes:
        path: where it is written; its name without the suffix is the data set's.
        root: the set's folder, whose `index.json` says the order of the pictures, where it has one.
    """

    path: Path
    root: Path

    def check(self, model: object, images: int) -> None:
        """Before anything is embedded: whether `write` can do it for a set of so many images.

        Raises:
            UserError: an index that is none; a model without parameters, such as an exported one.
        """
        if not hasattr(model, "named_parameters"):
            raise UserError(
                "--elevater counts parameters, which an exported model does not tell: name the "
                "checkpoint with -w"
            )
        self._order(images)

    def write(
        self,
        model: DualEncoder,
        named: str,
        image_embeds: np.ndarray,
        class_embeds: np.ndarray,
        images: int,
        say: Callable[[str], object],
    ) -> None:
        """Write the probabilities of all classes for all pictures, in the challenge's order.

        Args:
            model: whose parameters are counted.
            named: what the model is called.
            image_embeds: [N, D] numbers, L2-normalised.
            class_embeds: [C, D] numbers, of `embed_classes`.
            images: of the set.

        Raises:
            UserError: pictures are missing.
        """
        if len(image_embeds) != images:
            raise UserError(
                f"{images - len(image_embeds)} of the set's {images} pictures have no embedding: "
                "--elevater has to answer for each, so mend or replace those that are bad"
            )
        order, source = self._order(images)
        found = probabilities(image_embeds @ class_embeds.T, _SCALE)[order]  # [N, C]
        content = {
            "model_name": named,
            "dataset_name": self.path.stem,
            "num_trainable_params": 0,
            **_parameters(model),
            "n_shot": 0,
            "rnd_seeds": [123],
            "predictions": [found.round(_DIGITS).tolist()],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace_text(self.path, json.dumps(content, ensure_ascii=False))
        say(f"submission: {self.path}, {len(found)} pictures in the order of {source}")

    def _order(self, images: int) -> tuple[Any, str]:
        """Places of the pictures, and what gives them."""
        path = self.root / INDEX
        try:
            order = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return slice(None), "the folders"
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if not isinstance(order, list) or not order or any(type(n) is not int for n in order):
            raise UserError(f"{path} is no list of whole numbers, the places of pictures")
        wrong = next((number for number in order if not 0 <= number < images), None)
        if wrong is not None:
            raise UserError(f"{path} names picture {wrong}: the set has 0 to {images - 1}")
        return order, os.fspath(path)


def _parameters(model: DualEncoder) -> dict[str, int]:
    sizes = {name: int(np.prod(value.shape)) for name, value in model.named_parameters()}
    every = sum(sizes.values())
    visual = sum(size for name, size in sizes.items() if name.startswith("image_"))
    return {"num_params": every, "num_visual_params": visual, "num_backbone_params": every}
