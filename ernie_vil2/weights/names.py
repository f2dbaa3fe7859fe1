"""The parameters' names in the official code and in PaddleNLP's ErnieViLModel, and ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from ernie_vil2.models.text import fold_constant_embeddings

# What `rename` reads, in both directions.
_BLOCKS, _LAYERS = "image_tower.backbone.blocks.*.", "text_tower.ernie.encoder.layers.*."
_OFFICIAL = (
    ("contrastive_loss_mm.temperature_b", "temperature"),
    ("visual.class_embedding", "image_tower.backbone.cls_token"),
    ("visual.positional_embedding", "image_tower.backbone.pos_embed"),
    ("visual.patch_embed.", "image_tower.backbone.patch_embed."),
    ("visual.norm_pre.", "image_tower.backbone.ln_pre."),
    ("visual.blocks.*.", _BLOCKS),
    ("visual.norm_post.", "image_tower.backbone.norm."),
    ("text_model.word_emb.", "text_tower.ernie.embeddings.word_embeddings."),
    ("text_model.pos_emb.", "text_tower.ernie.embeddings.position_embeddings."),
    ("text_model.ln.", "text_tower.ernie.embeddings.layer_norm."),
    ("text_model.encoder_stack.block.*.attn.q.", _LAYERS + "self_attn.q_proj."),
    ("text_model.encoder_stack.block.*.attn.k.", _LAYERS + "self_attn.k_proj."),
    ("text_model.encoder_stack.block.*.attn.v.", _LAYERS + "self_attn.v_proj."),
    ("text_model.encoder_stack.block.*.attn.o.", _LAYERS + "self_attn.out_proj."),
    ("text_model.encoder_stack.block.*.ln1.", _LAYERS + "norm1."),
    ("text_model.encoder_stack.block.*.ffn.i.", _LAYERS + "linear1."),
    ("text_model.encoder_stack.block.*.ffn.o.", _LAYERS + "linear2."),
    ("text_model.encoder_stack.block.*.ln2.", _LAYERS + "norm2."),
    ("text_model.pooler.", "text_tower.ernie.pooler.dense."),
)
_PADDLENLP = (
    ("temperature", "temperature"),
    ("vision_model.class_embedding", "image_tower.backbone.cls_token"),
    ("vision_model.positional_embedding.weight", "image_tower.backbone.pos_embed"),
    ("vision_model.conv1.", "image_tower.backbone.patch_embed.proj."),
    ("vision_model.ln_pre.", "image_tower.backbone.ln_pre."),
    ("vision_model.transformer.layers.*.self_attn.qkv_proj.", _BLOCKS + "attn.qkv."),
    ("vision_model.transformer.layers.*.self_attn.out_proj.", _BLOCKS + "attn.proj."),
    ("vision_model.transformer.layers.*.linear1.", _BLOCKS + "mlp.fc1."),
    ("vision_model.transformer.layers.*.linear2.", _BLOCKS + "mlp.fc2."),
    ("vision_model.transformer.layers.*.norm1.", _BLOCKS + "norm1."),
    ("vision_model.transformer.layers.*.norm2.", _BLOCKS + "norm2."),
    ("vision_model.ln_post.", "image_tower.backbone.norm."),
    ("text_model.", "text_tower.ernie."),
)
# PaddleNLP has three projections where ours has one; between reading and renaming they are one.
_QKV = re.compile(r"(vision_model\..*\.self_attn\.)(q|k|v|qkv)_proj\.(weight|bias)")
CLASS_TOKEN, POSITIONS = "image_tower.backbone.cls_token", "image_tower.backbone.pos_embed"


def to_ours(state: dict[str, np.ndarray], task_id: int = 0) -> dict[str, np.ndarray]:
    """Weights under anybody's names by ours; what has no name of ours keeps its own.

    Args:
        task_id: which row of PaddleNLP's task embedding its text tower adds.
    """
    if any(name.startswith(("image_tower.", "text_tower.")) for name in state):
        return state
    if any(name.startswith("vision_model.") for name in state):
        state = fold_constant_embeddings(state, "text_model.embeddings.", task_id)
        state = rename(join_qkv(state), _PADDLENLP)
    else:
        state = rename(state, _OFFICIAL)
    for name in (CLASS_TOKEN, POSITIONS):
        if name in state:  # [C] or [1 + N, C] -> [1, ..., C]
            shape = state[name].shape
            state[name] = state[name].reshape((1,) * (3 - len(shape)) + shape)
    return state


def to_official(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights by our names under those of the official code."""
    return rename(state, _OFFICIAL, back=True)


def to_paddlenlp(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights by our names under those of PaddleNLP's ErnieViLModel."""
    result = split_qkv(rename(state, _PADDLENLP, back=True))
    for name in ("vision_model.class_embedding", "vision_model.positional_embedding.weight"):
        array = result[name]
        result[name] = array.reshape(array.shape[-1:] if "class" in name else array.shape[1:])
    return result


def split_qkv(state: dict[str, np.ndarray], axis: int = -1) -> dict[str, np.ndarray]:
    """Of each joined projection of a `vision_model` its three parts along `axis`."""
    result = {}
    for name, array in state.items():
        match = _QKV.fullmatch(name)
        if match:
            for part, piece in zip("qkv", np.split(array, 3, axis=axis)):
                result[f"{match[1]}{part}_proj.{match[3]}"] = piece
        else:
            result[name] = array
    return result


def join_qkv(state: dict[str, np.ndarray], axis: int = -1) -> dict[str, np.ndarray]:
    """The three projections of each attention of a `vision_model` as one, along `axis`."""
    parts: dict = {}
    result = {}
    for name, array in state.items():
        match = _QKV.fullmatch(name)
        if match:
            parts.setdefault(f"{match[1]}qkv_proj.{match[3]}", {})[match[2]] = (name, array)
        else:
            result[name] = array
    for joined, found in parts.items():
        if set(found) == set("qkv") and len({array.shape for _, array in found.values()}) == 1:
            result[joined] = np.concatenate([found[key][1] for key in "qkv"], axis=axis)
        else:  # they stay as they are, and are reported as unexpected
            result.update(found.values())
    return result


def rename(state: dict, table: tuple, back: bool = False) -> dict:
    """Weights by the names of a table's other column; what is not in it keeps its own.

    Args:
        table: pairs of name prefixes, theirs and ours, each ending with a dot, or of whole names;
            * stands for a layer's number. The first that fits wins.
        back: from ours to theirs.
    """
    rules = [_rule(*(reversed(pair) if back else pair)) for pair in table]
    return {_first(rule(name) for rule in rules) or name: array for name, array in state.items()}


def _rule(old: str, new: str) -> Callable[[str], str | None]:
    # A prefix ends with a dot, anything else is a whole name.
    pattern = re.escape(old).replace(r"\*", r"(\d+)") + ("(.+)" if old.endswith(".") else "")
    template = new.replace("*", r"\g<1>") + (
        rf"\g<{old.count('*') + 1}>" if old.endswith(".") else ""
    )
    compiled = re.compile(pattern)

    def apply(name: str) -> str | None:
        match = compiled.fullmatch(name)
        return match.expand(template) if match else None

    return apply


def _first(values: Iterable) -> str | None:
    return next((value for value in values if value is not None), None)
