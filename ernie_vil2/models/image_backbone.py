"""PaddleClas's backbones by name, in the sizes asked for, without their classifiers."""

from __future__ import annotations

import inspect
import types
from typing import Any, Callable, NoReturn

import paddle
from paddle import nn
from paddle.utils import unique_name
from paddleclas.ppcls.arch import backbone as zoo
from paddleclas.ppcls.arch.backbone.model_zoo import foundation_vit
from paddleclas.ppcls.utils.download import get_weights_path_from_url

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.files.pdparams import read_pdparams
from ernie_vil2.models import layers, vit_blocks
from ernie_vil2.models.image_resnet import RESNETS
from ernie_vil2.models.patches import drop_patches
from ernie_vil2.models.pretrained import fill_pretrained

# A number of classes that no backbone has as a width of its own: it tells which layer is the
# classifier.
_CLASSES = 1009
_OFFICIAL_EPSILON = 1e-6

Factory = Callable[..., nn.Layer]


def build_backbone(name: str, img_size: int | None, sizes: dict[str, Any]) -> tuple[nn.Layer, int]:
    """The backbone without its classifier, and the image size that it is for.

    Args:
        name: of a PaddleClas backbone.
        img_size: None for the size that the name stands for, else 224.
        sizes: arguments of the backbone that override what the name stands for, and for
            `CLIP_vit_*` the `hidden_act` of their blocks, "quick_gelu" unless told otherwise.

    Raises:
        UserError: an unknown name, or sizes that the backbone does not take.
    """
    factories = {key: value for key, value in vars(zoo).items() if inspect.isfunction(value)}
    factories.pop("get_apis")
    if name not in factories:
        known = [*factories, *RESNETS]
        raise UserError(f'Arch.Image.name is "{name}"{did_you_mean(name, known)}')
    layer_class, args, options = _constructor(factories[name])
    parameters = inspect.signature(layer_class).parameters
    accepted = set(parameters)
    if layer_class is factories[name] and "kwargs" in parameters:
        accepted.add("class_num")
    clip = name.startswith("CLIP_vit_")
    hidden_act = sizes.pop("hidden_act", None) if clip else None
    for key in sizes:
        if key not in accepted:
            raise UserError(
                f"Arch.Image.{key} is {sizes[key]}, but {name} takes none: set it to null"
            )
    if {"embed_dim", "num_heads"} & sizes.keys():
        options.pop("qk_scale", None)  # fixed for the width that the name stands for
    if clip:
        sizes.setdefault("epsilon", _OFFICIAL_EPSILON)
    options.update(sizes)
    if "img_size" in accepted:
        if img_size is not None:
            options["img_size"] = img_size
        img_size = options.get("img_size", 224)
        options["img_size"] = img_size
    if "class_num" in accepted:
        options["class_num"] = _CLASSES
    _check_divisible(name, options)
    model = _construct(name, layer_class, args, options)
    if _is_plain_vit(model):
        model = VisionTransformer(model)
        if clip:
            # foundation_vit ignores epsilon in ln_pre, and gives the blocks plain GELU
            model.ln_pre._epsilon = options["epsilon"]
            for block in model.blocks if hidden_act != "gelu" else ():
                block.mlp.act = layers.QuickGELU()
    else:
        _remove_classifier(model)
    return model, img_size or 224


def _construct(
    name: str, layer_class: Factory, args: tuple[Any, ...], options: dict[str, Any]
) -> nn.Layer:
    """The layer, with names of its parameters that no other in this process has.

    Many old backbones fix their parameters' names, which Paddle admits once in a process, and
    optimizers tell parameters apart by name.
    """
    try:
        with unique_name.guard():
            model = layer_class(*args, **options)
    except Exception as error:  # whatever a backbone says about sizes that do not go together
        raise UserError(
            f"{name} cannot be built so ({type(error).__name__}: {' '.join(str(error).split())}): "
            "set its sizes in Arch.Image to null, or choose another backbone"
        ) from error
    prefix = unique_name.generate("image_tower")
    for parameter in model.parameters():
        parameter.name = f"{prefix}.{parameter.name}"
    return model


class _Construction(Exception):
    """Carries what a factory would have constructed: class, args, options."""


def _constructor(factory: Factory) -> tuple[Factory, tuple[Any, ...], dict[str, Any]]:
    """The layer class that a PaddleClas factory calls, and the arguments that it fixes.

    The factories pass fixed sizes on as keywords and refuse the same keyword from outside. So a
    copy of the function runs with stand-ins for the classes; the module stays as it is. A factory
    that calls another function for the construction is returned itself, and its sizes cannot be
    changed.
    """

    def stand_in(layer_class: type[nn.Layer]) -> Factory:
        def construct(*args: Any, **options: Any) -> NoReturn:
            raise _Construction(layer_class, args, options)

        return construct

    known = dict(factory.__globals__)
    for name in factory.__code__.co_names:
        value = known.get(name)
        if inspect.isclass(value) and issubclass(value, nn.Layer):
            if "class_num" in inspect.signature(value).parameters:  # else a part of the backbone
                known[name] = stand_in(value)
        elif inspect.isfunction(value) and name != "_load_pretrained":
            return factory, (), {}
    try:
        types.FunctionType(factory.__code__, known, argdefs=factory.__defaults__)()
    except _Construction as construction:
        return construction.args
    return factory, (), {}


def _check_divisible(name: str, options: dict[str, Any]) -> None:
    image, patch = options.get("img_size"), options.get("patch_size")
    if isinstance(image, int) and isinstance(patch, int) and image % patch:
        raise UserError(
            f"Arch.Image.img_size {image} of {name} is no multiple of patch_size {patch}"
        )
    width, heads = options.get("embed_dim"), options.get("num_heads")
    if isinstance(width, int) and isinstance(heads, int) and width % heads:
        raise UserError(
            f"Arch.Image.embed_dim {width} of {name} is no multiple of num_heads {heads}"
        )


def _is_plain_vit(layer: nn.Layer) -> bool:
    parts = ("patch_embed", "cls_token", "pos_embed", "pos_drop", "blocks", "norm")
    return all(hasattr(layer, part) for part in parts) and not hasattr(layer, "dist_token")


def _remove_classifier(model: nn.Layer) -> None:
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent.named_children()):
            linear = isinstance(layer, nn.Linear) and layer.weight.shape[1] == _CLASSES
            conv = isinstance(layer, nn.Conv2D) and layer.weight.shape[0] == _CLASSES
            if linear or conv:
                setattr(parent, name, nn.Identity())


def load_pretrained(backbone: nn.Layer, name: str) -> None:
    """Fill `backbone` with PaddleClas's published weights, without those of the classifier.

    Raises:
        UserError: there are none, they are out of reach, or they do not fit.
    """
    url = getattr(getattr(zoo, name, None), "__globals__", {}).get("MODEL_URLS", {}).get(name)
    if not url:
        raise UserError(f"PaddleClas has no weights for {name}: set Arch.Image.pretrained to false")
    try:
        path = get_weights_path_from_url(url)
    except Exception as error:  # PaddleClas raises whatever its download meets
        raise UserError(
            f"the weights of {name} cannot be downloaded ({type(error).__name__}): go online, or "
            "set Arch.Image.pretrained to false"
        ) from error
    remedy = "leave the sizes in Arch.Image null, or set pretrained to false"
    fill_pretrained(backbone, read_pdparams(path), name, "image_tower.backbone.", remedy)


class VisionTransformer(nn.Layer):
    """The parts of a PaddleClas vision transformer, run in the official order.

    PaddleClas's own forward reads module globals that the next model built overwrites, and for one
    of its CLIP names drops the class token, so only the parts are used.

    Attributes:
        patch_dropout: the share of each image's patches that training leaves out.
    """

    def __init__(self, vit: nn.Layer):
        super().__init__()
        self.patch_embed = vit.patch_embed
        self.cls_token = vit.cls_token
        self.pos_embed = vit.pos_embed
        self.pos_drop = vit.pos_drop
        self.ln_pre = getattr(vit, "ln_pre", None) or nn.Identity()
        self.blocks = vit.blocks
        self.norm = vit.norm
        self.patch_dropout = 0.0
        layers.use_own_layers(self)
        if self.is_plain:
            for block in self.blocks:
                block.attn.__class__ = vit_blocks.Attention
            # nothing but the class token leaves the last block
            last = self.blocks[-1]
            last.__class__ = vit_blocks.LastBlock
            last.attn.__class__ = vit_blocks.LastAttention
            last.attn.qkv.__class__ = vit_blocks.LastProjections

    def forward(
        self, pixel_values: paddle.Tensor, run_block: Callable[..., paddle.Tensor] | None = None
    ) -> paddle.Tensor:
        """float32 [B, 3, H, W] -> [B, C]; `run_block(block, x)` may wrap each block's call."""
        x = self.patch_embed(pixel_values)  # [B, 3, H, W] -> [B, N, C]
        x = x[0] if isinstance(x, tuple) else x
        cls_token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        x = paddle.concat([cls_token, x], axis=1)  # [B, 1 + N, C]
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if self.training and self.patch_dropout:
            x = drop_patches(x, self.patch_dropout)  # [B, 1 + N, C] -> [B, 1 + K, C]
        x = self.pos_drop(self.ln_pre(x))
        for block in self.blocks:
            x = block(x) if run_block is None else run_block(block, x)
        return self.norm(x[:, 0])  # [B, C]

    def fuse_attention(self, fused: bool) -> None:
        """Let plain blocks use the fused kernel of attention where there is one, or never."""
        for block in self.blocks if self.is_plain else ():
            block.attn.fused = fused

    @property
    def is_plain(self) -> bool:
        """Whether each block is `x + attn(norm1(x))`, then `x + mlp(norm2(x))`, and nothing else.

        Others scale their layers' outputs, or add relative positions in their attention.
        """
        return all(
            type(block) in (foundation_vit.Block, vit_blocks.LastBlock)
            and block.gamma_1 is None
            and not hasattr(block.attn, "relative_position_bias_table")
            for block in self.blocks
        )


def is_quick_gelu(layer: nn.Layer) -> bool:
    """Whether an activation is x * sigmoid(1.702 * x), as in the official blocks."""
    return isinstance(layer, layers.QuickGELU)
