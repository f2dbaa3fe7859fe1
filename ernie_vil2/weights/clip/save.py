"""Models of ours as files of Chinese-CLIP, OpenAI's CLIP, open_clip and Hugging Face."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import replacing, replacing_folder
from ernie_vil2.files.safetensors import write_safetensors
from ernie_vil2.files.torch_writer import write_torch
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.image_backbone import VisionTransformer, is_quick_gelu
from ernie_vil2.weights.clip import names
from ernie_vil2.weights.clip.arch import EPSILON, TEXT_EPSILON
from ernie_vil2.weights.official import float32_state

log = logging.getLogger("ernie_vil2")

_IMAGE = ("image_tower.", "image_projection.", "temperature")


def save_clip(
    model: DualEncoder,
    kind: str,
    path: str | os.PathLike,
    vocab_file: str | os.PathLike | None = None,
) -> None:
    """Write a file, or for "huggingface" a folder, that theirs loads.

    Chinese-CLIP's has both towers; those of "openai" and "open_clip" have the image tower alone;
    that of "huggingface" is a ChineseCLIPModel where the text tower is a BERT, else a
    CLIPVisionModelWithProjection.

    Args:
        kind: as `load_clip` takes it.
        path: a .pt file, or a .safetensors file for "openai" and "open_clip".
        vocab_file: the tokenizer's, copied to vocab.txt of a folder.

    Raises:
        UserError: a model that theirs cannot represent, or a place that cannot be written.
    """
    chinese = kind in ("chinese_clip", "huggingface") and model.text_tower.kind == "bert"
    _require_form(model, kind)
    state = float32_state(model)
    if not chinese:
        log.warning("%s gets the image tower alone, without the text tower", path)
        state = {name: array for name, array in state.items() if name.startswith(_IMAGE)}
    theirs = names.to_theirs(state, kind == "huggingface")
    if kind == "huggingface":
        _save_folder(model, theirs, chinese, Path(path), vocab_file)
        return
    with replacing(Path(path)) as draft:
        if Path(path).suffix == ".safetensors":
            write_safetensors(draft, theirs, {"format": "pt"})
        else:
            # as DistributedDataParallel names them, which cn_clip expects
            prefix = "module." if kind == "chinese_clip" else ""
            named = {f"{prefix}{name}": array for name, array in theirs.items()}
            wrapped = {"epoch": 0, "step": 0, "name": "ernie_vil2", "state_dict": named}
            write_torch(draft, named if kind == "openai" else wrapped)


def _require_form(model: DualEncoder, kind: str) -> None:
    tower, text = model.image_tower, model.text_tower
    vit = tower.backbone if isinstance(tower.backbone, VisionTransformer) else None
    reasons = [
        (
            not tower.is_projected and not tower.name.startswith("CLIP_vit_"),
            f"the image backbone {tower.name}",
        ),
        (tower.head is not None, "a Linear after the image backbone (Arch.Image.out_dim)"),
        (
            model.image_projection is None and not tower.is_projected,
            "an image tower without projection (Arch.embed_dim null)",
        ),
        (
            tower.is_projected and model.image_projection is not None,
            f"a projection after {tower.name}: set Arch.Image.out_dim to Arch.embed_dim",
        ),
        (kind == "huggingface" and tower.is_projected, f"the ResNet {tower.name}"),
        (kind == "chinese_clip" and text.kind != "bert", "a text tower that is no BERT"),
    ]
    if vit is not None and tower.name.startswith("CLIP_vit_"):
        block = vit.blocks[0]
        quick, hidden = is_quick_gelu(block.mlp.act), block.mlp.fc1.weight.shape
        only_quick = kind in ("chinese_clip", "openai")
        reasons += [
            (block.attn.qkv.bias is None, "attention without biases (Arch.Image.qkv_bias)"),
            (only_quick and not quick, "GELU in the image tower (Arch.Image.hidden_act)"),
            (only_quick and hidden[1] != 4 * hidden[0], "an Arch.Image.mlp_ratio other than 4"),
        ]
    for applies, reason in reasons:
        if applies:
            raise UserError(f"--to {kind} has no place for {reason}: only --to ernie_vil2 keeps it")
    if kind != "huggingface" and vit is not None and vit.norm._epsilon != EPSILON:
        _warn_of_epsilon(kind, "image", EPSILON, vit.norm._epsilon)
    epsilon = text.transformer.embeddings.layer_norm._epsilon
    if kind == "chinese_clip" and epsilon != TEXT_EPSILON:
        _warn_of_epsilon(kind, "text", TEXT_EPSILON, epsilon)


def _warn_of_epsilon(kind: str, tower: str, theirs: float, ours: float) -> None:
    log.warning(
        "%s runs the %s tower's LayerNorms with epsilon %g, this model has %g: embeddings will "
        "differ slightly there",
        *(kind, tower, theirs, ours),
    )


# -- Hugging Face's folder -------------------------------------------------------------------------


def _save_folder(
    model: DualEncoder,
    state: dict[str, np.ndarray],
    chinese: bool,
    folder: Path,
    vocab_file: str | os.PathLike | None,
) -> None:
    if not chinese:
        state.pop("logit_scale")  # a CLIPVisionModelWithProjection has none
    with replacing_folder(folder) as draft:
        write_safetensors(draft / "model.safetensors", state, {"format": "pt"})
        config = json.dumps(_config(model, chinese), indent=2)
        (draft / "config.json").write_text(config, encoding="utf-8")
        if vocab_file is not None and chinese:
            shutil.copyfile(vocab_file, draft / "vocab.txt")


def _config(model: DualEncoder, chinese: bool) -> dict:
    vit = model.image_tower.backbone
    block = vit.blocks[0]
    vision = {
        "hidden_act": "quick_gelu" if is_quick_gelu(block.mlp.act) else "gelu",
        "hidden_size": model.image_tower.width,
        "image_size": model.image_tower.img_size,
        "intermediate_size": block.mlp.fc1.weight.shape[1],
        "layer_norm_eps": vit.norm._epsilon,
        "num_attention_heads": block.attn.num_heads,
        "num_hidden_layers": len(vit.blocks),
        "patch_size": vit.patch_embed.patch_size[0],
        "projection_dim": model.embed_dim,
    }
    if not chinese:
        return {
            "architectures": ["CLIPVisionModelWithProjection"],
            "model_type": "clip_vision_model",
            **vision,
        }
    bert = model.text_tower.transformer.config
    keys = (
        "attention_probs_dropout_prob",
        "hidden_act",
        "hidden_dropout_prob",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "pad_token_id",
        "type_vocab_size",
        "vocab_size",
    )
    text = {key: getattr(bert, key) for key in keys}
    text["layer_norm_eps"] = model.text_tower.transformer.embeddings.layer_norm._epsilon
    return {
        "architectures": ["ChineseCLIPModel"],
        "logit_scale_init_value": float(model.temperature),
        "model_type": "chinese_clip",
        "projection_dim": model.embed_dim,
        "text_config": {"model_type": "chinese_clip_text_model", **text},
        "vision_config": {"model_type": "chinese_clip_vision_model", **vision},
    }
