"""A trained model with the tokenizer that it was trained with."""

from __future__ import annotations

import os

from ernie_vil2.config.load import Config
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.weights.load import load
from ernie_vil2.weights.vocabulary import check_vocabulary, own_vocabulary


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
