"""Two towers that embed images and texts in one space, and the temperature of their loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.models.image import ImageTower
from ernie_vil2.models.layers import fuse_biases
from ernie_vil2.models.text import TextTower

_ARCH = ("embed_dim", "fused_bias", "Image", "Text")


class DualEncoder(nn.Layer):
    """An image tower and a text tower, each with L2-normalised output, and a logit scale.

    Args:
        image_tower, text_tower: layers with `width` (numbers per item), `num_layers` and
            `layer_of(name)`.
        embed_dim: None uses the towers' outputs as they are, which must be of one width; a number
            projects both to it, without bias; an image tower whose `is_projected` holds and that
            has this width as it is.
        init_logit_scale, max_logit_scale: of the factor on cosine similarities.
        learnable_logit_scale: False keeps it at its initial value.

    Attributes:
        base: of a model with adapters, the weights that they were made for and that stay, as
            `weights.base.Base`; else None.

    Raises:
        UserError: the towers differ in width and there is no `embed_dim`.
    """

    def __init__(
        self,
        image_tower: nn.Layer,
        text_tower: nn.Layer,
        embed_dim: int | None = None,
        init_logit_scale: float = 1 / 0.07,
        max_logit_scale: float = 100.0,
        learnable_logit_scale: bool = True,
    ):
        super().__init__()
        if embed_dim is None and image_tower.width != text_tower.width:
            raise UserError(
                f"text tower gives {text_tower.width} numbers, image tower {image_tower.width}: "
                "set Arch.embed_dim to project both to one size"
            )
        if not 0 < init_logit_scale <= max_logit_scale:
            raise UserError(
                f"Loss.logit_scale.init is {init_logit_scale}: expected more than 0 and at most "
                f"its max, {max_logit_scale}"
            )
        self.base: Any = None
        self.embed_dim = embed_dim or image_tower.width
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_projection = self.text_projection = None
        if embed_dim is not None:
            if not (getattr(image_tower, "is_projected", False) and image_tower.width == embed_dim):
                self.image_projection = nn.Linear(image_tower.width, embed_dim, bias_attr=False)
            self.text_projection = nn.Linear(text_tower.width, embed_dim, bias_attr=False)
        # The clamp stays below the maximum of `logit_scale`: at a tie the gradient would be lost
        # or halved, and float32 would round exp(ln 100) up.
        ceiling = np.float32(math.log(max_logit_scale))
        self._max_temperature = float(np.nextafter(ceiling, np.float32(-np.inf)))
        self._clamped_temperature = float(np.nextafter(self._max_temperature, -np.inf, dtype="f4"))
        initial = min(math.log(init_logit_scale), self._clamped_temperature)
        self.temperature = self.create_parameter(
            [1], default_initializer=nn.initializer.Constant(initial)
        )
        self.temperature.stop_gradient = not learnable_logit_scale

    def forward(
        self,
        pixel_values: paddle.Tensor | None = None,
        input_ids: paddle.Tensor | None = None,
    ) -> tuple[paddle.Tensor | None, paddle.Tensor | None]:
        """`(encode_image(pixel_values), encode_text(input_ids))`, None where the input is None."""
        image_embeds = None if pixel_values is None else self.encode_image(pixel_values)
        text_embeds = None if input_ids is None else self.encode_text(input_ids)
        return image_embeds, text_embeds

    def encode_image(self, pixel_values: paddle.Tensor) -> paddle.Tensor:
        """float32 [B, 3, H, W], normalised pixels -> float32 [B, D], L2-normalised."""
        return project(self.image_tower(pixel_values), self.image_projection)

    def encode_text(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [B, L], padded with 0 -> float32 [B, D], L2-normalised."""
        return project(self.text_tower(input_ids), self.text_projection)

    @property
    def logit_scale(self) -> paddle.Tensor:
        """exp(temperature), at most the maximum: float32 [1], with gradient."""
        temperature = self.temperature.astype("float32")
        return paddle.exp(paddle.clip(temperature, max=self._max_temperature))

    @paddle.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the parameter itself back to the maximum; call it after each optimizer step."""
        # not `set_value`, which copies through the host
        clamped = paddle.clip(self.temperature, max=self._clamped_temperature)
        paddle.assign(clamped, self.temperature)

    def layers_above(self, name: str) -> int:
        """How many layers lie between a parameter and its tower's head, for layer-wise decay.

        0 for heads, projections and the temperature; the tower's `num_layers` + 1 for its stem.
        """
        for prefix, tower in (("image_tower.", self.image_tower), ("text_tower.", self.text_tower)):
            if name.startswith(prefix):
                return tower.num_layers + 1 - tower.layer_of(name[len(prefix) :])
        return 0


def project(features: paddle.Tensor, projection: nn.Layer | None) -> paddle.Tensor:
    """[B, C] -> float32 [B, D], L2-normalised; without a projection D is C."""
    if projection is not None:
        features = projection(features)  # [B, C] -> [B, D]
    # Mixed precision would normalise in half precision and return it; a static graph has none.
    full = paddle.amp.auto_cast(enable=False) if paddle.in_dynamic_mode() else nullcontext()
    with full:
        return F.normalize(features.astype("float32"), axis=-1)


def build_model(arch: Mapping[str, Any], loss: Mapping[str, Any] | None = None) -> DualEncoder:
    """The model that the `Arch` section describes.

    Args:
        arch: `{embed_dim, fused_bias, Image: {...}, Text: {...}}`; the inner keys are the arguments
            of `ImageTower` and `TextTower`.
        loss: the node `Loss.logit_scale`, `{init, max, learnable}`.

    Raises:
        UserError: a missing or unknown key, or what the towers refuse.
    """
    for key in arch:
        if key not in _ARCH:
            raise UserError(f"Arch.{key} is unknown{did_you_mean(key, _ARCH)}")
    names = {
        "init": "init_logit_scale",
        "max": "max_logit_scale",
        "learnable": "learnable_logit_scale",
    }
    for key in loss or {}:
        if key not in names:
            raise UserError(f"Loss.logit_scale.{key} is unknown{did_you_mean(key, names)}")
    model = DualEncoder(
        _build_tower(ImageTower, arch, "Image"),
        _build_tower(TextTower, arch, "Text"),
        arch.get("embed_dim"),
        **{names[key]: value for key, value in (loss or {}).items()},
    )
    if arch.get("fused_bias"):
        fuse_biases(model)
    model.arch = {
        key: dict(node) if isinstance(node, Mapping) else node for key, node in arch.items()
    }
    return model


def _build_tower(tower: type[nn.Layer], arch: Mapping[str, Any], section: str) -> nn.Layer:
    node = arch.get(section)
    if not isinstance(node, Mapping) or "name" not in node:
        raise UserError(f"Arch.{section}.name is missing: give a section with name and sizes")
    accepted = list(inspect.signature(tower).parameters)
    for key in node:
        if key not in accepted:
            raise UserError(f"Arch.{section}.{key} is unknown{did_you_mean(key, accepted)}")
    return tower(**node)
