"""A trained model with the tokenizer that it was trained with."""

from __future__ import annotations

import os
from typing import Any

from ernie_vil2.config.load import Config
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.weights.load import load
from ernie_vil2.weights.paddlenlp_programs import FeaturePrograms, has_programs
from ernie_vil2.weights.vocabulary import check_vocabulary, own_vocabulary


def load_embedder(weights: str | os.PathLike, config: Config) -> tuple[Any, Tokenizer]:
    """`load_trained`, or what has its `encode_image` and `encode_text` from programs.

    Args:
        weights: as `load_trained` takes them; or a folder of programs that PaddleNLP's
            export_model.py or our --paddlenlp-names wrote.
    """
    if not has_programs(weights):
        return load_trained(weights, config)
    return FeaturePrograms(weights, config.Transform.size), Tokenizer(**config.Tokenizer)


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
