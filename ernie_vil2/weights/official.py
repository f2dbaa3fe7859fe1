"""The official code's `.pdparams`, written; `files.pdparams` reads it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import replacing
from ernie_vil2.files.pdparams import write_pdparams
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.image_backbone import VisionTransformer, is_quick_gelu
from ernie_vil2.weights import names


def save_official(model: DualEncoder, path: str | os.PathLike) -> None:
    """Write the official code's `.pdparams`.

    Raises:
        UserError: a model that the official code cannot represent, or a file that cannot be
            written.
    """
    require_official_form(model, "the official model")
    with replacing(Path(path)) as draft:
        write_pdparams(draft, names.to_official(float32_state(model)))


def require_official_form(model: DualEncoder, what: str) -> None:
    """Refuse a model that the official code's towers cannot represent.

    Args:
        what: the model that the weights are to be written for, as the message calls it.

    Raises:
        UserError: naming what has no place there.
    """
    tower = model.image_tower
    reasons = (
        (model.image_projection is not None, "a projection (Arch.embed_dim)"),
        (tower.head is not None, "a Linear after the image backbone (Arch.Image.out_dim)"),
        (not tower.name.startswith("CLIP_vit_"), f"the image backbone {tower.name}"),
        (model.text_tower.kind != "ernie", "a text tower that is no ERNIE (Arch.Text.kind)"),
    )
    for applies, reason in reasons:
        if applies:
            raise UserError(f"{what} has no place for {reason}: only --to ernie_vil2 keeps it")
    assert isinstance(tower.backbone, VisionTransformer)
    block = tower.backbone.blocks[0]
    if block.attn.qkv.bias is None:
        raise UserError(f"{what} needs Arch.Image.qkv_bias: only --to ernie_vil2 keeps it false")
    if not is_quick_gelu(block.mlp.act):
        raise UserError(
            f"{what} has no place for GELU (Arch.Image.hidden_act): only --to ernie_vil2 keeps it"
        )


def float32_state(model: DualEncoder) -> dict[str, np.ndarray]:
    """The model's weights by our names, as float32 arrays."""
    return {name: tensor.astype("float32").numpy() for name, tensor in model.state_dict().items()}
