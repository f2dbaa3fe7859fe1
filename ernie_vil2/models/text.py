"""The text tower: PaddleNLP's ERNIE as the official ERNIE-ViL 2.0 uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddlenlp.transformers import ErnieConfig, ErnieModel
from paddlenlp.transformers.ernie.configuration import ERNIE_PRETRAINED_INIT_CONFIGURATION

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.models import layers
from ernie_vil2.models.pretrained import fill_pretrained
from ernie_vil2.models.recompute import recompute_block

PAD_ID = 0
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


class TextTower(nn.Layer):
    """ERNIE without segment and task embedding, pooled by Linear and tanh on [CLS].

    Args:
        name: a released one of PaddleNLP's, which gives the sizes left out, or any other with all
            sizes given.
        pretrained: load PaddleNLP's weights for this name.
        vocab_size ... initializer_range: override what the name stands for; None keeps it.
        epsilon: of every LayerNorm; 1e-5 is the official model's, PaddleNLP's ERNIE has 1e-12.
        recompute: run each block again in the backward pass instead of keeping its activations.

    Raises:
        UserError: an unknown name without sizes, sizes that do not fit, weights out of reach.
    """

    def __init__(
        self,
        name: str,
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
        self.ernie = ErnieModel(_config(name, given))
        for layer in self.ernie.sublayers():
            if isinstance(layer, nn.LayerNorm):
                layer._epsilon = epsilon
        layers.use_own_layers(self.ernie)
        for block in self.ernie.encoder.layers:
            if block.activation is F.gelu:
                block.activation = layers.gelu
        self.ernie.encoder.layers[-1].__class__ = _LastBlock
        self.recompute = recompute
        self.width = self.ernie.config.hidden_size
        self.vocab_size = self.ernie.config.vocab_size
        self.max_len = self.ernie.config.max_position_embeddings
        self.num_layers = self.ernie.config.num_hidden_layers
        if pretrained:
            self._load_pretrained(name)

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
        x = self.ernie.embeddings(input_ids)  # [B, L] -> [B, L, C]
        mask = (input_ids == PAD_ID).astype(x.dtype).unsqueeze([1, 2]) * -1e4  # [B, 1, 1, L]
        for block in self.ernie.encoder.layers:
            if self.recompute and self.training:
                x = recompute_block(block, x, mask)
            else:
                x = block(x, mask)
        return self.ernie.pooler(x)  # [B, L, C] -> [B, C]

    def layer_of(self, name: str) -> int:
        """The depth of a parameter, by its name in this layer: 0 stem, 1..n, n + 1 head."""
        part = name.split(".")
        if part[1] == "encoder":
            return int(part[3]) + 1
        return 0 if part[1] == "embeddings" else self.num_layers + 1

    def _load_pretrained(self, name: str) -> None:
        if name not in ERNIE_PRETRAINED_INIT_CONFIGURATION:
            known = ERNIE_PRETRAINED_INIT_CONFIGURATION
            raise UserError(f'PaddleNLP has no weights for "{name}"{did_you_mean(name, known)}')
        try:
            source = ErnieModel.from_pretrained(name)
        except Exception as error:  # PaddleNLP raises whatever its download meets
            raise UserError(
                f"the weights of {name} cannot be downloaded ({type(error).__name__}): go online, "
                "or set Arch.Text.pretrained to false"
            ) from error
        found = fold_constant_embeddings(source.state_dict(), task_id=source.config.task_id)
        remedy = "leave the sizes in Arch.Text null, or pretrained false"
        fill_pretrained(self.ernie, found, name, "text_tower.ernie.", remedy)


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


def _config(name: str, given: dict[str, Any]) -> ErnieConfig:
    released = ERNIE_PRETRAINED_INIT_CONFIGURATION.get(name)
    if released is None:
        missing = [key for key in _SIZES if key not in given]
        if missing:
            raise UserError(
                f'Arch.Text.name "{name}" is no released ERNIE and {", ".join(missing)} not given'
                f"{did_you_mean(name, ERNIE_PRETRAINED_INIT_CONFIGURATION)}"
            )
        given = {"intermediate_size": 4 * given["hidden_size"], **given}
    # No segment and no task embedding: not even as parameters, which would get no gradient.
    none = {"type_vocab_size": 0, "use_task_id": False, "pad_token_id": PAD_ID}
    config = ErnieConfig(**{**(released or {}), **given, **none})
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"Arch.Text.hidden_size {config.hidden_size} is no multiple of num_attention_heads "
            f"{config.num_attention_heads}"
        )
    return config
