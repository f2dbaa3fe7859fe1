"""The towers written for inference: the same embeddings from fewer operations.

Only the first token leaves either tower, so the last block computes only what that one needs: keys
and values of all tokens, but one query, and the linear layers of one token. On a CPU this saves
7 % of a tower of 12 blocks.
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F

from ernie_vil2.models.dual_encoder import DualEncoder, project
from ernie_vil2.models.image_backbone import VisionTransformer, is_quick_gelu

_QUICK_GELU = 1.702  # QuickGELU is x * sigmoid(1.702 * x)


class ImageProgram(nn.Layer):
    """`model.encode_image`, in eval mode.

    A backbone that is not a vision transformer of plain blocks runs as it is. The weights are the
    model's at the time of construction.

    Attributes:
        rewritten: whether the blocks are.
    """

    def __init__(self, model: DualEncoder):
        super().__init__()
        self.model = model
        backbone = model.image_tower.backbone
        self.rewritten = isinstance(backbone, VisionTransformer) and backbone.is_plain
        if self.rewritten:
            self.mlps = nn.LayerList([_mlp(block.mlp) for block in backbone.blocks])
            self.attend_first = _FirstTokenAttention(backbone.blocks[-1].attn)

    def forward(self, pixel_values: paddle.Tensor) -> paddle.Tensor:
        """float32 [B, 3, H, W], normalised pixels -> float32 [B, D], L2-normalised."""
        if not self.rewritten:
            return self.model.encode_image(pixel_values)
        tower = self.model.image_tower
        blocks = iter(zip(tower.backbone.blocks, self.mlps))

        def run_block(block: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
            """[B, N, C] -> [B, N, C], and of the last block [B, 1, C]."""
            _, mlp = next(blocks)
            if block is tower.backbone.blocks[-1]:
                x = x[:, :1] + self.attend_first(block.norm1(x))
            else:
                x = x + _attend(block.attn, block.norm1(x))
            return x + mlp(block.norm2(x))

        features = tower.backbone(pixel_values, run_block)
        features = features if tower.head is None else tower.head(features)
        return project(features, self.model.image_projection)


class TextProgram(nn.Layer):
    """`model.encode_text`, in eval mode: a last block that gives one token is the tower's own."""

    def __init__(self, model: DualEncoder):
        super().__init__()
        self.model = model

    def forward(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [B, L], padded with 0 -> float32 [B, D], L2-normalised."""
        return self.model.encode_text(input_ids)


def _attend(attention: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """A block's attention, [B, N, C] -> [B, N, C], in PaddleClas's order of operators.

    This is what Paddle Inference makes one operator of on processors with AVX-512
    (self_attention_fuse_pass): slices, and the scale behind the product.
    """
    length, width = x.shape[1:]
    heads = [attention.num_heads, width // attention.num_heads]
    projected = attention.qkv(x).reshape([-1, length, 3, *heads]).transpose([2, 0, 3, 1, 4])
    query, key, value = projected[0], projected[1], projected[2]  # [B, H, N, C / H]
    shares = F.softmax(query.matmul(key.transpose([0, 1, 3, 2])) * attention.scale)
    return attention.proj(shares.matmul(value).transpose([0, 2, 1, 3]).reshape([-1, length, width]))


class _FirstTokenAttention(nn.Layer):
    """What PaddleClas's attention gives for the first token: [B, N, C] -> [B, 1, C]."""

    def __init__(self, attention: nn.Layer):
        super().__init__()
        width = attention.proj.weight.shape[0]
        weight, bias = attention.qkv.weight, attention.qkv.bias
        self.query = _linear(weight[:, :width], None if bias is None else bias[:width])
        self.key_value = _linear(weight[:, width:], None if bias is None else bias[width:])
        self.proj = attention.proj
        self.num_heads, self.scale = attention.num_heads, attention.scale

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        length, width = x.shape[1:]
        heads = [self.num_heads, width // self.num_heads]
        query = self.query(x[:, :1]).reshape([-1, 1, *heads]).transpose([0, 2, 1, 3])
        key, value = (  # [B, N, 2 C] -> two of [B, H, N, C / H]
            self.key_value(x).reshape([-1, length, 2, *heads]).transpose([2, 0, 3, 1, 4])
        )
        shares = F.softmax(query.matmul(key, transpose_y=True) * self.scale)  # [B, H, 1, N]
        return self.proj(shares.matmul(value).transpose([0, 2, 1, 3]).reshape([-1, 1, width]))


def _mlp(mlp: nn.Layer) -> nn.Layer:
    """`mlp`, with QuickGELU as swish, x * sigmoid(x), and its factor in the weights around it.

    Inference engines compute swish together with the linear layer before it; QuickGELU is three
    operators, which go over the widest tensor of a block.
    """
    if not is_quick_gelu(mlp.act):
        return mlp
    before, after = mlp.fc1, mlp.fc2
    return nn.Sequential(
        _linear(before.weight * _QUICK_GELU, before.bias * _QUICK_GELU),
        nn.Swish(),
        _linear(after.weight / _QUICK_GELU, after.bias),
    )


def _linear(weight: paddle.Tensor, bias: paddle.Tensor | None) -> nn.Linear:
    result = nn.Linear(*weight.shape, bias_attr=None if bias is not None else False)
    result.weight.set_value(weight)
    if bias is not None:
        result.bias.set_value(bias)
    return result
