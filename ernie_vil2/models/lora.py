"""LoRA: low-rank matrices that learn beside linear layers whose own weights stay.

Hu et al. 2021 (arXiv 2106.09685): a layer gives x W + b + (alpha / rank) (x A) B, with A [C, rank]
and B [rank, D] named and begun as by PaddleNLP and Hugging Face's PEFT, so that B = 0 changes
nothing. PaddleNLP's LoRAModel does not fit: it puts layers of its own in the place of linear ones,
so that those of `layers` and `vit_blocks` would lose what they do; its `eval()` adds the matrices
to the weights and its `train()` takes them away again, which leaves other weights after each
evaluation, and no resume to the last bit; and it imports `paddle.distributed`, which `distributed`
alone does here. So, as in `layers`, only the classes of layers change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.utils import unique_name

from ernie_vil2.errors import UserError
from ernie_vil2.models import layers, vit_blocks

_PARAMETERS = ("lora_A", "lora_B")


class Linear(layers.Linear):
    """A linear layer with an adapter.

    Attributes:
        lora_A, lora_B: float32 [C, rank] and [rank, D].
        lora_scale: alpha / rank.
        lora_dropout: the share of the adapter's input that training drops.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[..., C] -> [..., D]."""
        return layers.Linear.forward(self, x) + layers.linear(_down(self, x), self.lora_B, None)


class LastProjections(vit_blocks.LastProjections):
    """`vit_blocks.LastProjections` with an adapter, whose attributes are those of `Linear`."""

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """[B, N, C] -> the first token's [B, 1, C], all tokens' [B, N, 2 C]."""
        first, every = vit_blocks.LastProjections.forward(self, x)
        low = _down(self, x)
        to_first, to_every = self.lora_B.split([first.shape[-1], every.shape[-1]], axis=1)
        return (
            first + layers.linear(layers.first_token(low), to_first, None),
            every + layers.linear(low, to_every, None),
        )


def _down(layer: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """[..., C] -> [..., rank], scaled: it has the fewest numbers."""
    if layer.lora_dropout:
        x = F.dropout(x, layer.lora_dropout, training=layer.training)
    return layers.linear(x, layer.lora_A, None) * layer.lora_scale


_ADAPTED = {
    nn.Linear: Linear,
    layers.Linear: Linear,
    vit_blocks.LastProjections: LastProjections,
}
_PLAIN = {Linear: layers.Linear, LastProjections: vit_blocks.LastProjections}


def add_adapters(tower: nn.Layer, settings: Mapping[str, Any] | None, section: str) -> None:
    """Give linear layers of a tower adapters, the only parameters of it that learn from then on.

    Args:
        settings: `{rank, alpha, modules, dropout}`; with rank None, or without settings, the tower
            stays as it is. `modules` is a regular expression, searched for in the layers' names.
        section: of the configuration, "Arch.Image", for messages.

    Raises:
        UserError: no linear layer has such a name, or one is too narrow for the rank.
    """
    if settings is None or settings["rank"] is None:
        return
    pattern, rank = re.compile(settings["modules"]), settings["rank"]
    linear = {name: x for name, x in tower.named_sublayers() if type(x) in _ADAPTED}
    chosen = {name: layer for name, layer in linear.items() if pattern.search(name)}
    if not chosen:
        known = ", ".join([*linear][-1:-5:-1])
        raise UserError(
            f"{section}.lora.modules {settings['modules']!r} is found in no linear layer's name: "
            + (f"expected a part of names such as {known}" if linear else "the tower has none")
        )
    for name, layer in chosen.items():
        if rank > min(layer.weight.shape):
            raise UserError(
                f"{section}.lora.rank is {rank}, but {name} has a matrix of "
                f"{layer.weight.shape[0]} x {layer.weight.shape[1]}: expected at most the smaller"
            )
    for parameter in tower.parameters():
        parameter.stop_gradient = True
    for layer in chosen.values():
        _add_adapter(layer, rank, settings["alpha"] / rank, settings["dropout"])


def _add_adapter(layer: nn.Layer, rank: int, scale: float, dropout: float) -> None:
    layer.__class__ = _ADAPTED[type(layer)]
    width, out = layer.weight.shape
    # as PaddleNLP and PEFT begin it: uniform within 1 / sqrt(C)
    spread = nn.initializer.KaimingUniform(negative_slope=math.sqrt(5), nonlinearity="leaky_relu")
    shapes = ([width, rank], [rank, out])
    for name, shape, begin in zip(_PARAMETERS, shapes, (spread, nn.initializer.Constant(0.0))):
        # a name that no other layer of this process has, as optimizers need it
        attr = paddle.ParamAttr(name=unique_name.generate("lora"), initializer=begin)
        setattr(layer, name, layer.create_parameter(shape, attr))
    layer.lora_scale, layer.lora_dropout = scale, dropout


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return name.rpartition(".")[2] in _PARAMETERS


def adapted(model: nn.Layer) -> dict[str, nn.Layer]:
    """The layers with an adapter, by name."""
    return {name: x for name, x in model.named_sublayers() if type(x) in _PLAIN}


@paddle.no_grad()
def merge_adapters(model: nn.Layer) -> int:
    """Add the adapters to the weights beside them, which leaves a model without any.

    Returns:
        How many layers had one; each sum is taken in float64 and rounded once.
    """
    found = adapted(model)
    for layer in found.values():
        low, up = (getattr(layer, name).numpy().astype(np.float64) for name in _PARAMETERS)
        weight = layer.weight.numpy().astype(np.float64) + layer.lora_scale * (low @ up)
        layer.weight.set_value(weight.astype(np.float32))
        for name in _PARAMETERS:
            delattr(layer, name)
        layer.__class__ = _PLAIN[type(layer)]
    if found:
        model.base = None
        for tower in ("Image", "Text"):
            model.arch[tower]["lora"] = {**(model.arch[tower].get("lora") or {}), "rank": None}
    return len(found)
