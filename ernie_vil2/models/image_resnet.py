"""CLIP's ResNets, pooled by attention: PaddleNLP's, which has them where PaddleClas has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddlenlp.transformers.clip.modeling import ModifiedResNet

from ernie_vil2.errors import UserError
from ernie_vil2.models import layers


@dataclass(frozen=True)
class _Sizes:
    layers: tuple[int, int, int, int]  # blocks of each stage
    width: int
    img_size: int
    out_dim: int


RESNETS = {  # OpenAI's CLIP, and of RN50 Chinese-CLIP's
    "CLIP_rn50": _Sizes((3, 4, 6, 3), 64, 224, 1024),
    "CLIP_rn101": _Sizes((3, 4, 23, 3), 64, 224, 512),
    "CLIP_rn50x4": _Sizes((4, 6, 10, 6), 80, 288, 640),
    "CLIP_rn50x16": _Sizes((6, 8, 18, 8), 96, 384, 768),
    "CLIP_rn50x64": _Sizes((3, 15, 36, 10), 128, 448, 1024),
}
_POOLED = 32  # the attention is so many times as wide as the stem, and has so few pixels a side


def build_resnet(
    name: str, img_size: int | None, sizes: dict[str, Any], out_dim: int | None
) -> tuple[nn.Layer, int]:
    """One of `RESNETS` and the image size that it is for: [B, 3, H, W] -> [B, out_dim].

    Args:
        img_size: None for the size that the name stands for.
        sizes: of `embed_dim` and `num_heads`, those of the attention, that override the name's.
        out_dim: None for the name's.

    Raises:
        UserError: a size that it does not take.
    """
    known = RESNETS[name]
    for key in sizes.keys() - {"embed_dim", "num_heads"}:
        raise UserError(f"Arch.Image.{key} is {sizes[key]}, but {name} takes none: set it to null")
    img_size = img_size or known.img_size
    embed_dim = sizes.get("embed_dim", _POOLED * known.width)
    num_heads = sizes.get("num_heads", embed_dim // 64)
    for key, size, of in (("img_size", img_size, _POOLED), ("embed_dim", embed_dim, 2 * _POOLED)):
        if size % of:
            raise UserError(f"Arch.Image.{key} {size} of {name} is no multiple of {of}")
    if not num_heads or embed_dim % num_heads:
        raise UserError(
            f"Arch.Image.embed_dim {embed_dim} of {name} is no multiple of num_heads {num_heads}"
        )
    width, out_dim = embed_dim // _POOLED, out_dim or known.out_dim
    model = ModifiedResNet(list(known.layers), out_dim, num_heads, img_size, width)
    model.attnpool.__class__ = _AttentionPool
    layers.use_own_layers(model)
    return model, img_size


class _AttentionPool(nn.Layer):
    """PaddleNLP's, for any batch in a program, and with the one query whose result is used."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, D]."""
        x = x.flatten(2).transpose([0, 2, 1])  # [B, H * W, C]
        x = paddle.concat([x.mean(axis=1, keepdim=True), x], axis=1)
        x = x + self.positional_embedding.weight.astype(x.dtype)
        length, width = x.shape[1:]
        heads = [self.num_heads, width // self.num_heads]
        query = self.q_proj(layers.first_token(x)).reshape([-1, 1, *heads])
        key, value = (part(x).reshape([-1, length, *heads]) for part in (self.k_proj, self.v_proj))
        query, key, value = (part.transpose([0, 2, 1, 3]) for part in (query, key, value))
        shares = F.softmax(paddle.matmul(query * heads[1] ** -0.5, key, transpose_y=True))
        mixed = paddle.matmul(shares, value).transpose([0, 2, 1, 3])  # [B, 1, heads, C / heads]
        return self.c_proj(mixed.reshape([-1, width]))
