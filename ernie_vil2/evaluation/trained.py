"""A trained model with the tokenizer and the preprocessing that it was trained with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_vil2.artefact.description import PROMPTS
from ernie_vil2.config.load import Config
from ernie_vil2.data.normalise import Normalise
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import eval_planes
from ernie_vil2.files.durable import sha256
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.weights.digest import weights_hash
from ernie_vil2.weights.load import load
from ernie_vil2.weights.paddlenlp_programs import FeaturePrograms, has_programs
from ernie_vil2.weights.preprocessing import choose_preprocessing
from ernie_vil2.weights.vocabulary import check_vocabulary, own_vocabulary


class Embedder(NamedTuple):
    """What an evaluation needs of a model.

    Attributes:
        model: has `encode_image` and `encode_text`, as `DualEncoder`.
        tokenizer: texts -> int64 [N, L].
        transform: from an image's bytes to an array of always one shape.
        normalise: of a batch of these to what `encode_image` takes.
        prompts: templates of zero-shot classification, where nobody names others.
        weights_hash: gives what tells the weights from others, None where nothing does.
    """

    model: Any
    tokenizer: Tokenizer
    transform: Callable[[Any], np.ndarray]
    normalise: Callable[[Any], Any]
    prompts: Sequence[str]
    weights_hash: Callable[[], str | None]

    def text_identity(self) -> dict[str, Any] | None:
        """What its embedding of a text depends on; None: not known."""
        weights = self.weights_hash()
        if weights is None:
            return None
        return {
            "weights": weights,
            "vocabulary": sha256(Path(self.tokenizer.vocab_file)),
            "max_len": self.tokenizer.max_len,
            "lowercase": self.tokenizer.lowercase,
            "straight_quotes": self.tokenizer.straight_quotes,
        }


def load_embedder(weights: str | os.PathLike, config: Config) -> Embedder:
    """A model with all that belongs to it.

    Args:
        weights: as `load_trained` takes them; or a folder of programs that PaddleNLP's
            export_model.py or our --paddlenlp-names wrote.
        config: as there, and `Transform`.
    """
    model: Any
    programs = has_programs(weights)
    if programs:
        model = FeaturePrograms(weights, config.Transform.size)
        tokenizer = Tokenizer(**config.Tokenizer)
    else:
        model, tokenizer = load_trained(weights, config)
    return Embedder(
        model,
        tokenizer,
        *pictures_of(weights, config),
        PROMPTS,
        lambda: None if programs else weights_hash(model),
    )


def pictures_of(weights: str | os.PathLike, config: Config) -> tuple[Callable, Normalise]:
    """`transform` and `normalise` of an `Embedder`, as the weights were trained with them."""
    name, mean, std = choose_preprocessing(weights, config)
    return eval_planes(config.Transform.size, name), Normalise(mean, std)


def load_trained(weights: str | os.PathLike, config: Config) -> tuple[DualEncoder, Tokenizer]:
    """The model in eval mode, and the tokenizer of the vocabulary beside the weights.

    Args:
        weights: as `ernie_vil2.load` takes them.
        config: with `Arch` for weights that do not say it themselves, and `Tokenizer`, whose
            vocabulary is used where none lies beside the weights.

    Raises:
        UserError: weights that cannot be read or do not fit, a vocabulary larger than the model's.
    """
    model = load(weights, config)
    tokenizer = Tokenizer(**{**config.Tokenizer, **own_vocabulary(weights)})
    check_vocabulary(model, tokenizer, trained=True)
    return model, tokenizer
