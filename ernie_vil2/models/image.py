"""The image tower: any PaddleClas backbone by its name, as one vector per image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.limits import BELOW_ONE
from ernie_vil2.models.image_backbone import VisionTransformer, build_backbone, load_pretrained
from ernie_vil2.models.image_resnet import RESNETS, build_resnet
from ernie_vil2.models.lora import add_adapters
from ernie_vil2.models.recompute import recompute_block

_ACTIVATIONS = {"tanh": nn.Tanh}


class ImageTower(nn.Layer):
    """A PaddleClas backbone without its classifier, then optionally Linear and tanh.

    Args:
        name: of a PaddleClas backbone. `CLIP_vit_*` are built as the official ERNIE-ViL 2.0 has
            them: QuickGELU, `epsilon` in every LayerNorm (1e-6 unless told otherwise), the class
            token after the last one. `CLIP_rn*` are PaddleNLP's, with the attention that pools them
            and projects to out_dim, `embed_dim` wide.
        hidden_act: of their blocks, "quick_gelu" or "gelu"; None is QuickGELU.
        pretrained: load PaddleClas's weights for this name.
        img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, qkv_bias, epsilon: override
            what the name stands for; None keeps it.
        out_dim: None gives the backbone's features; a number, a Linear to it.
        activation: of that Linear, "tanh" or None.
        recompute: run each block again in the backward pass instead of keeping its activations.
        patch_dropout: the share of each image's patches that training leaves out.
        fused_attention: use one kernel for attention, on GPUs that have it, in half precision.
        lora: as `add_adapters` takes it.

    Raises:
        UserError: an unknown name, a size that the backbone does not take, weights out of reach.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        img_size: int | None = None,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        qkv_bias: bool | None = None,
        epsilon: float | None = None,
        hidden_act: str | None = None,
        out_dim: int | None = None,
        activation: str | None = None,
        recompute: bool = False,
        patch_dropout: float = 0.0,
        fused_attention: bool = True,
        lora: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        sizes = {
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "epsilon": epsilon,
            "hidden_act": hidden_act,
        }
        if activation is not None and activation not in _ACTIVATIONS:
            raise UserError(
                f'Arch.Image.activation is "{activation}"{did_you_mean(activation, _ACTIVATIONS)}'
            )
        if activation is not None and name in RESNETS:
            raise UserError(
                f"Arch.Image.activation is {activation}, but {name} takes none: set it to null"
            )
        if activation is not None and out_dim is None:
            raise UserError(
                f'Arch.Image.activation "{activation}" needs out_dim: set it to a width'
            )
        self.name = name
        sizes = {key: value for key, value in sizes.items() if value is not None}
        # CLIP's ResNets give what others project to, so that the model projects it no more
        self.is_projected = name in RESNETS
        if self.is_projected:
            self.backbone, self.img_size = build_resnet(name, img_size, sizes, out_dim)
            out_dim = None
        else:
            self.backbone, self.img_size = build_backbone(name, img_size, sizes)
        if pretrained:
            load_pretrained(self.backbone, name)
        if recompute and not isinstance(self.backbone, VisionTransformer):
            raise UserError(f"Arch.Image.recompute works on vision transformers, not on {name}")
        self.recompute = recompute
        if patch_dropout:
            self._drop_patches(patch_dropout)
        if isinstance(self.backbone, VisionTransformer):
            self.backbone.fuse_attention(fused_attention)
        self.width = _probe(self.backbone, name, self.img_size)
        self.head = None
        if out_dim is not None:
            layers = [nn.Linear(self.width, out_dim)]
            layers += [_ACTIVATIONS[activation]()] if activation else []
            self.head = nn.Sequential(*layers)
            self.width = out_dim
        self._layers_by_prefix, self.num_layers = _depths(self.backbone)
        add_adapters(self, lora, "Arch.Image")

    def forward(self, pixel_values: paddle.Tensor) -> paddle.Tensor:
        """float32 [B, 3, H, W], normalised pixels -> [B, width], not L2-normalised."""
        if self.recompute and self.training:
            features = self.backbone(pixel_values, run_block=recompute_block)
        else:
            features = self.backbone(pixel_values)
        features = _pool(features)  # [B, C] or [B, C, h, w] -> [B, C]
        return features if self.head is None else self.head(features)

    def _drop_patches(self, share: float) -> None:
        if not 0 <= share < 1:
            raise UserError(f"Arch.Image.patch_dropout is {share}: expected {BELOW_ONE.words}")
        if not isinstance(self.backbone, VisionTransformer):
            raise UserError(
                f"Arch.Image.patch_dropout is {share}, which needs a vision transformer with a "
                f"class token, and {self.name} is none: set it to 0"
            )
        self.backbone.patch_dropout = share

    def layer_of(self, name: str) -> int:
        """The depth of a parameter, by its name in this layer: 0 stem, 1..n, n + 1 head."""
        part = name.split(".")
        if part[0] != "backbone":
            return self.num_layers + 1
        for length in (2, 1):  # `blocks.3` before `blocks`
            depth = self._layers_by_prefix.get(".".join(part[1 : 1 + length]))
            if depth is not None:
                return depth
        return 0  # the backbone's own parameters: class token, position embedding


def _pool(features: paddle.Tensor) -> paddle.Tensor:
    return features.mean(axis=[2, 3]) if features.ndim == 4 else features


def _probe(backbone: nn.Layer, name: str, img_size: int) -> int:
    """The width of the features; freezes parameters that they do not depend on.

    These belong to branches that only the inference form of a backbone uses; DataParallel would
    wait for their gradients.
    """
    if isinstance(backbone, VisionTransformer):
        return backbone.cls_token.shape[-1]
    backbone.eval()  # so that batch statistics stay as they are
    try:
        features = backbone(paddle.zeros([1, 3, img_size, img_size]))
    except Exception as error:  # whatever an operator says about a size that it cannot take
        raise UserError(
            f"{name} cannot take images of {img_size} x {img_size} "
            f"({type(error).__name__}): set another Arch.Image.img_size or name"
        ) from error
    if not isinstance(features, paddle.Tensor) or features.ndim not in (2, 4):
        raise UserError(f"Arch.Image.name {name} does not give one vector or map per image")
    features = _pool(features)
    features.sum().backward()
    for parameter in backbone.parameters():
        parameter.stop_gradient = parameter.stop_gradient or parameter.grad is None
        parameter.clear_gradient(set_to_zero=False)
    backbone.train()
    return features.shape[1]


def _depths(backbone: nn.Layer) -> tuple[dict[str, int], int]:
    """The layer index of each name prefix, and the number of layers between stem and head."""
    children = [name for name, layer in backbone.named_children() if layer.parameters()]
    if "blocks" not in children:
        return {name: index for index, name in enumerate(children)}, len(children) - 1
    depth = len(backbone.blocks)
    before = children.index("blocks")
    # The norm before the blocks is part of the stem, whatever the order of construction.
    depths = dict.fromkeys([*children[:before], "ln_pre"], 0)
    depths.update({f"blocks.{index}": index + 1 for index in range(depth)})
    depths.update({name: depth + 1 for name in children[before + 1 :] if name != "ln_pre"})
    return depths, depth
