"""Forwards for the parts of PaddleClas's plain vision transformers, with fewer operations.

The layers that PaddleClas built become of these classes, with the attributes that they have; none
is built here.
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F

from ernie_vil2.models import layers


class Attention(nn.Layer):
    """PaddleClas's, without its slices, whose gradients are each a zero-filled copy.

    Attributes:
        fused: use one kernel for attention where `layers.has_flash_attention`.
    """

    fused = True

    def forward(self, x: paddle.Tensor, rel_pos_bias: None = None) -> paddle.Tensor:
        """[B, N, C] -> [B, N, C]; plain blocks pass no `rel_pos_bias`."""
        length, width = x.shape[1:]
        heads = [self.num_heads, width // self.num_heads]
        projected = self.qkv(x).reshape([-1, length, 3, *heads])
        if self.fused and layers.has_flash_attention(projected):
            return self._mix_fused(*projected.unbind(2))
        return self._mix(*projected.transpose([2, 0, 3, 1, 4]).unbind(0))

    def _mix_fused(
        self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor
    ) -> paddle.Tensor:
        """Three of [B, N, H, C / H] -> [B, N, C], without [B, H, N, N] in memory."""
        query = query * (self.scale * query.shape[3] ** 0.5)  # the kernel divides by this root
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, None, dropout)
        mixed = mixed.reshape([-1, query.shape[1], self.num_heads * query.shape[3]])
        return self.proj_drop(self.proj(mixed))

    def _mix(self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        """[B, H, Q, C / H] and two of [B, H, N, C / H] -> [B, Q, C]."""
        # the query is scaled, not the products, which could leave the range of float16
        shares = F.softmax(paddle.matmul(query * self.scale, key, transpose_y=True))
        mixed = paddle.matmul(self.attn_drop(shares), value).transpose([0, 2, 1, 3])
        mixed = mixed.reshape([-1, query.shape[2], self.num_heads * query.shape[3]])
        return self.proj_drop(self.proj(mixed))


class LastBlock(nn.Layer):
    """A plain block that gives the class token alone."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, C] -> [B, 1, C]."""
        first = layers.first_token(x) + self.drop_path(self.attn(self.norm1(x)))
        return first + self.drop_path(self.mlp(self.norm2(first)))


class LastAttention(Attention):
    """Of all tokens the keys and values, of the class token the query."""

    def forward(self, x: paddle.Tensor, rel_pos_bias: None = None) -> paddle.Tensor:
        """[B, N, C] -> [B, 1, C]."""
        length, width = x.shape[1:]
        heads = [self.num_heads, width // self.num_heads]
        query, key_value = self.qkv(x)
        query = query.reshape([-1, 1, *heads]).transpose([0, 2, 1, 3])
        key_value = key_value.reshape([-1, length, 2, *heads]).transpose([2, 0, 3, 1, 4])
        return self._mix(query, *key_value.unbind(0))


class LastProjections(layers.Linear):
    """A layer of its own, so that sharding fetches the weights when it is called."""

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """[B, N, C] -> the first token's [B, 1, C], all tokens' [B, N, 2 C]."""
        widths = [x.shape[-1], 2 * x.shape[-1]]
        weights = self.weight.split(widths, axis=1)
        biases = [None, None] if self.bias is None else self.bias.split(widths)
        first, every = (
            layers.linear(tokens, weight, bias)
            for tokens, weight, bias in zip((layers.first_token(x), x), weights, biases)
        )
        return first, every
