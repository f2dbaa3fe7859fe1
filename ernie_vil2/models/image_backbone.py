"""PaddleClas's backbones by name, in the sizes asked for, without their classifiers."""

from __future__ import annotations

import inspect
import logging
import types
from typing import Callable

import paddle
from paddle import nn
from paddle.utils import unique_name
from paddleclas.ppcls.arch import backbone as zoo
from paddleclas.ppcls.arch.backbone.model_zoo import foundation_vit
from paddleclas.ppcls.utils.download import get_weights_path_from_url

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.files.pdparams import read_pdparams
from ernie_vil2.models.positions import fit_all

log = logging.getLogger("ernie_vil2")

# A number of classes that no backbone has as a width of its own, so that it betrays the classifier.
_CLASSES = 1009
_OFFICIAL_EPSILON = 1e-6


def build_backbone(name: str, img_size: int | None, sizes: dict) -> tuple[nn.Layer, int]:
    """The backbone without its classifier, and the image size that it is for."""
    factories = {key: value for key, value in vars(zoo).items() if inspect.isfunction(value)}
    factories.pop("get_apis")
    if name not in factories:
        raise UserError(f'Arch.Image.name is "{name}"{did_you_mean(name, factories)}')
    layer_class, args, options = _constructor(factories[name])
    parameters = inspect.signature(layer_class).parameters
    accepted = set(parameters)
    if layer_class is factories[name] and "kwargs" in parameters:
        accepted.add("class_num")
    for key in sizes:
        if key not in accepted:
            raise UserError(
                f"Arch.Image.{key} is {sizes[key]}, but {name} takes none: set it to null"
            )
    if {"embed_dim", "num_heads"} & sizes.keys():
        options.pop("qk_scale", None)  # fixed for the width that the name stands for
    clip = name.startswith("CLIP_vit_")
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
    # Many old backbones fix their parameters' names, which Paddle admits once in a process, and
    # optimizers tell parameters apart by name.
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
    if _is_plain_vit(model):
        model = VisionTransformer(model)
        if clip:
            # foundation_vit gives ln_pre another epsilon and the blocks plain GELU, whatever it
            # is told
            model.ln_pre._epsilon = options["epsilon"]
            for block in model.blocks:
                block.mlp.act = foundation_vit.QuickGELU()
    else:
        _remove_classifier(model)
    return model, img_size or 224


class _Construction(Exception):
    """Carries what a factory would have constructed: class, args, options."""


def _constructor(factory: Callable) -> tuple[Callable, tuple, dict]:
    """The layer class that a PaddleClas factory calls, and the arguments that it fixes.

    The factories pass fixed sizes on as keywords and refuse the same keyword from outside. So a
    copy of the function runs with stand-ins for the classes; the module stays as it is. A factory
    that leaves the construction to another function stands for itself, with its sizes fixed.
    """

    def stand_in(layer_class):
        def construct(*args, **options):
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


def _check_divisible(name: str, options: dict) -> None:
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
    """Fill `backbone` with PaddleClas's published weights; what only its classifier has is left."""
    url = getattr(zoo, name).__globals__.get("MODEL_URLS", {}).get(name)
    if not url:
        raise UserError(f"PaddleClas has no weights for {name}: set Arch.Image.pretrained to false")
    try:
        path = get_weights_path_from_url(url)
    except Exception as error:  # PaddleClas raises whatever its download meets
        raise UserError(
            f"the weights of {name} cannot be downloaded ({type(error).__name__}): go online, or "
            "set Arch.Image.pretrained to false"
        ) from error
    wanted = backbone.state_dict()
    found, resized = fit_all(read_pdparams(path), wanted, "image_tower.backbone.")
    bad = [
        key for key in wanted if key not in found or found[key].shape != tuple(wanted[key].shape)
    ]
    if bad:
        raise UserError(
            f"the weights of {name} lack or have other shapes for {', '.join(bad[:10])} "
            f"({len(bad)} in all): leave the sizes in Arch.Image null, or set pretrained to false"
        )
    backbone.set_state_dict({key: found[key] for key in wanted})
    for line in resized:
        log.warning("%s: %s", name, line)


class VisionTransformer(nn.Layer):
    """The parts of a PaddleClas vision transformer, run in the official order.

    PaddleClas's own forward reads module globals that the next model built overwrites, and for one
    of its CLIP names drops the class token, so only the parts are used.
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

    def forward(
        self, pixel_values: paddle.Tensor, run_block: Callable | None = None
    ) -> paddle.Tensor:
        """float32 [B, 3, H, W] -> [B, C]; `run_block(block, x)` may wrap each block's call."""
        x = self.patch_embed(pixel_values)  # [B, 3, H, W] -> [B, N, C]
        x = x[0] if isinstance(x, tuple) else x
        cls_token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        x = paddle.concat([cls_token, x], axis=1)  # [B, 1 + N, C]
        if self.pos_embed is not None:
            x = x + self.pos_embed
        x = self.pos_drop(self.ln_pre(x))
        for block in self.blocks:
            x = block(x) if run_block is None else run_block(block, x)
        return self.norm(x[:, 0])  # [B, C]

    @property
    def is_plain(self) -> bool:
        """Whether each block is `x + attn(norm1(x))`, then `x + mlp(norm2(x))`, and nothing else.

        Others scale their layers' outputs, or add relative positions in their attention.
        """
        return all(
            type(block) is foundation_vit.Block
            and block.gamma_1 is None
            and not hasattr(block.attn, "relative_position_bias_table")
            for block in self.blocks
        )


def is_quick_gelu(layer: nn.Layer) -> bool:
    """Whether an activation is x * sigmoid(1.702 * x), as in the official blocks."""
    return isinstance(layer, foundation_vit.QuickGELU)
