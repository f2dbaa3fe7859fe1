"""The text tower: PaddleNLP's ERNIE as the official ERNIE-ViL 2.0 uses it, or its BERT.

RoBERTa-wwm and RBT, which read Chinese-CLIP's texts, are of the kind "bert": PaddleNLP gives their
names to its RobertaModel, which counts positions from 1, where they were trained from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddlenlp.transformers import BertConfig, BertModel, ErnieConfig, ErnieModel, RobertaModel
from paddlenlp.transformers.bert.configuration import BERT_PRETRAINED_INIT_CONFIGURATION
from paddlenlp.transformers.ernie.configuration import ERNIE_PRETRAINED_INIT_CONFIGURATION
from paddlenlp.transformers.roberta.configuration import (
    PRETRAINED_INIT_CONFIGURATION as ROBERTA_PRETRAINED_INIT_CONFIGURATION,
)

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.models import layers
from ernie_vil2.models.lora import add_adapters
from ernie_vil2.models.pretrained import fill_pretrained
from ernie_vil2.models.recompute import recompute_block

PAD_ID = 0
# name -> sizes, and the model whose weights PaddleNLP has for these names
_RELEASED = (
    ("ernie", ERNIE_PRETRAINED_INIT_CONFIGURATION, ErnieModel),
    ("bert", BERT_PRETRAINED_INIT_CONFIGURATION, BertModel),
    ("bert", ROBERTA_PRETRAINED_INIT_CONFIGURATION, RobertaModel),
)
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


class TextTower(nn.Layer):
    """ERNIE without segment and task embedding, pooled by Linear and tanh on [CLS]; or BERT.

    Args:
        name: a released one of PaddleNLP's, which gives the sizes left out, or any other with all
            sizes given.
        kind: "ernie", or "bert", whose output is the last state of [CLS] itself, as Chinese-CLIP
            has it; None is what the name stands for, else "ernie".
        pretrained: load PaddleNLP's weights for this name.
        vocab_size ... initializer_range: override what the name stands for; None keeps it.
        epsilon: of every LayerNorm; 1e-5 is the official model's, PaddleNLP's ERNIE has 1e-12.
        recompute: run each block again in the backward pass instead of keeping its activations.
        lora: as `add_adapters` takes it.

    Raises:
        UserError: an unknown name without sizes, sizes that do not fit, weights out of reach.
    """

    def __init__(
        self,
        name: str,
        kind: str | None = None,
        pretrained: bool = False,
        vocab_size: int | None = None,
        hidden_size: int | None = None,
        num_hidden_layers: int | None = None,
        num_attention_heads: int | None = None,
        intermediate_size: int | None = None,
        max_position_embeddings: int | None = None,
        hidden_dropout_prob: float | None = None,
        attention_probs_dropout_prob: float | None = None,
        hidden_act: str | None = None,
        initializer_range: float | None = None,
        epsilon: float = 1e-5,
        recompute: bool = False,
        lora: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        given = {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "max_position_embeddings": max_position_embeddings,
            "hidden_dropout_prob": hidden_dropout_prob,
            "attention_probs_dropout_prob": attention_probs_dropout_prob,
            "hidden_act": hidden_act,
            "initializer_range": initializer_range,
        }
        given = {key: value for key, value in given.items() if value is not None}
        self.kind, config = _config(name, kind, given)
        # by its kind, so that a checkpoint's names say what it is
        setattr(self, self.kind, _transformer(self.kind, config))
        for layer in self.transformer.sublayers():
            if isinstance(layer, nn.LayerNorm):
                layer._epsilon = epsilon
        layers.use_own_layers(self.transformer)
        for block in self.transformer.encoder.layers:
            if block.activation is F.gelu:
                block.activation = layers.gelu
        self.transformer.encoder.layers[-1].__class__ = _LastBlock
        self.recompute = recompute
        self.width = config.hidden_size
        self.vocab_size = config.vocab_size
        self.max_len = config.max_position_embeddings
        self.num_layers = config.num_hidden_layers
        if pretrained:
            self._load_pretrained(name)
        add_adapters(self, lora, "Arch.Text")

    @property
    def transformer(self) -> nn.Layer:
        """PaddleNLP's model, whose parts the forward runs."""
        return getattr(self, self.kind)

    def forward(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [B, L], padded with 0 -> [B, width], not L2-normalised.

        Raises:
            UserError: L is more than `max_position_embeddings`.
        """
        if paddle.in_dynamic_mode() and input_ids.shape[1] > self.max_len:
            raise UserError(
                f"a text has {input_ids.shape[1]} tokens, the text tower takes {self.max_len}: "
                "lower Tokenizer.max_len or raise Arch.Text.max_position_embeddings"
            )
        x = self.transformer.embeddings(input_ids)  # [B, L] -> [B, L, C]
        mask = (input_ids == PAD_ID).astype(x.dtype).unsqueeze([1, 2]) * -1e4  # [B, 1, 1, L]
        for block in self.transformer.encoder.layers:
            if self.recompute and self.training:
                x = recompute_block(block, x, mask)
            else:
                x = block(x, mask)
        # the last block gives one token: [B, 1, C] -> [B, C]
        return self.transformer.pooler(x) if self.kind == "ernie" else x.squeeze(1)

    def layer_of(self, name: str) -> int:
        """The depth of a parameter, by its name in this layer: 0 stem, 1..n, n + 1 head."""
        part = name.split(".")
        if part[1] == "encoder":
            return int(part[3]) + 1
        return 0 if part[1] == "embeddings" else self.num_layers + 1

    def _load_pretrained(self, name: str) -> None:
        _, model_class, _ = _released(name, self.kind)
        if model_class is None:
            known = [other for kind, names, _ in _RELEASED if kind == self.kind for other in names]
            raise UserError(f'PaddleNLP has no weights for "{name}"{did_you_mean(name, known)}')
        try:
            source = model_class.from_pretrained(name)
        except Exception as error:  # PaddleNLP raises whatever its download meets
            raise UserError(
                f"the weights of {name} cannot be downloaded ({type(error).__name__}): go online, "
                "or set Arch.Text.pretrained to false"
            ) from error
        found = source.state_dict()
        if self.kind == "ernie":
            found = fold_constant_embeddings(found, task_id=source.config.task_id)
        remedy = "leave the sizes in Arch.Text null, or pretrained false"
        fill_pretrained(self.transformer, found, name, f"text_tower.{self.kind}.", remedy)


class _LastBlock(nn.TransformerEncoderLayer):
    """Gives the first token alone, the only one that the pooler takes."""

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """[B, L, C] and [B, 1, 1, L] -> [B, 1, C]."""
        first = layers.first_token(x)
        first = self.norm1(first + self.dropout1(self.self_attn(first, x, x, mask)))
        hidden = self.dropout(self.activation(self.linear1(first)))
        return self.norm2(first + self.dropout2(self.linear2(hidden)))


def fold_constant_embeddings(
    state: Mapping[str, Any], prefix: str = "embeddings.", task_id: int = 0
) -> dict[str, Any]:
    """Weights of PaddleNLP's ERNIE for a tower without segment and task embedding.

    Every token of ours is of segment 0 and of one task, so that both embeddings add the same
    vector at each position: adding it to the position table keeps the function.

    Args:
        state: name -> weight.
        prefix: of the embeddings' names.
        task_id: of all texts.

    Raises:
        UserError: the weights have no task of this number.
    """
    state = dict(state)
    position = f"{prefix}position_embeddings.weight"  # [max_position_embeddings, C]
    for kind, row in (("token_type", 0), ("task_type", task_id)):
        table = state.pop(f"{prefix}{kind}_embeddings.weight", None)
        if table is not None and row >= len(table):
            raise UserError(f"task_id is {row}, but the weights know {len(table)} tasks, from 0")
        if table is not None and position in state:
            state[position] = state[position] + table[row]
    return state


def _released(name: str, kind: str | None) -> tuple[str, type[nn.Layer] | None, dict[str, Any]]:
    """The kind, the class and the sizes of a released name; of others no class and no sizes."""
    for other, names, model_class in _RELEASED:
        if name in names and kind in (None, other):
            return other, model_class, names[name]
    return kind or "ernie", None, {}


def _config(
    name: str, kind: str | None, given: dict[str, Any]
) -> tuple[str, ErnieConfig | BertConfig]:
    kind, model_class, released = _released(name, kind)
    if model_class is None:
        missing = [key for key in _SIZES if key not in given]
        if missing:
            known = [other for _, names, _ in _RELEASED for other in names]
            raise UserError(
                f'Arch.Text.name "{name}" is no released {kind.upper()} and {", ".join(missing)} '
                f"not given{did_you_mean(name, known)}"
            )
        given = {"intermediate_size": 4 * given["hidden_size"], **given}
    if kind == "ernie":
        # No segment and no task embedding: not even as parameters, which would get no gradient.
        fixed = {"type_vocab_size": 0, "use_task_id": False, "pad_token_id": PAD_ID}
    else:
        # Both segments stay, of which texts are the first, so that weights go back as they came.
        fixed = {"type_vocab_size": 2, "pad_token_id": PAD_ID}
    config = (ErnieConfig if kind == "ernie" else BertConfig)(**{**released, **given, **fixed})
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"Arch.Text.hidden_size {config.hidden_size} is no multiple of num_attention_heads "
            f"{config.num_attention_heads}"
        )
    return kind, config


def _transformer(kind: str, config: ErnieConfig | BertConfig) -> nn.Layer:
    if kind == "ernie":
        return ErnieModel(config)
    model = BertModel(config)
    del model.pooler  # it would get no gradient
    return model
