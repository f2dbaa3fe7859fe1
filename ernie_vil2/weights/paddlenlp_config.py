"""The config.json of PaddleNLP's ErnieViLModel, read as `Arch` and written."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ernie_vil2.config.messages import show, wrong
from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.models.text import PAD_ID
from ernie_vil2.weights.names import CLASS_TOKEN, POSITIONS

log = logging.getLogger("ernie_vil2")

# Whatever its config says, PaddleNLP runs the text tower's LayerNorms with this, where the official
# model has 1e-5.
TEXT_EPSILON = 1e-12


# -- Reading a configuration -----------------------------------------------------------------------


def whole(least: int, most: int) -> tuple:
    """What to say of a whole number, and whether a value is one; so do the others here."""
    return (
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def number(expected: str, valid) -> tuple:
    return (
        f"a number {expected}",
        lambda value: type(value) in (int, float) and math.isfinite(value) and valid(value),
    )


def one_of(*values) -> tuple:
    return " or ".join(map(str, values)), lambda value: value in values and type(value) is not bool


_SIZE, _LAYERS = whole(1, 1 << 20), whole(1, 1000)
share = number("from 0 to below 1", lambda value: 0 <= value < 1)
# PaddleNLP writes only what differs from these defaults of its own: key -> default, what is right.
_TEXT = {
    "vocab_size": (40000, whole(4, 10_000_000)),
    "hidden_size": (768, _SIZE),
    "num_hidden_layers": (12, _LAYERS),
    "num_attention_heads": (12, _SIZE),
    "intermediate_size": (3072, _SIZE),
    "max_position_embeddings": (2048, _SIZE),
    "hidden_act": ("gelu", one_of("gelu", "relu")),
    "hidden_dropout_prob": (0.1, share),
    "attention_probs_dropout_prob": (0.1, share),
    "pad_token_id": (PAD_ID, one_of(PAD_ID)),
    "task_id": (0, whole(0, 1 << 20)),
}
_VISION = {
    "hidden_size": (768, _SIZE),
    "num_hidden_layers": (12, _LAYERS),
    "num_attention_heads": (12, _SIZE),
    "intermediate_size": (3072, _SIZE),
    "image_size": (224, whole(1, 1 << 14)),
    "patch_size": (16, whole(1, 1 << 14)),
    "hidden_act": ("quick_gelu", one_of("quick_gelu")),
    "layer_norm_eps": (1e-6, number("above 0 and below 1", lambda value: 0 < value < 1)),
}


def read_config(path: Path) -> tuple[dict, dict]:
    """The text and the vision section of a config.json, defaults filled in, each value checked.

    Raises:
        UserError: no JSON object, or a value that the model cannot have.
    """
    content = json_object(path)
    return section(path, content, "text", _TEXT), section(path, content, "vision", _VISION)


def json_object(path: Path) -> dict:
    """What a config.json holds.

    Raises:
        UserError: it cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: expected a model's config")
    return content


def section(path: Path, content: dict, tower: str, table: dict) -> dict:
    """A tower's section of a config.json, defaults filled in.

    Args:
        content: of the file.
        tower: "text" or "vision".
        table: key -> the default, and what `whole` and its like say is right.

    Raises:
        UserError: a value that the table does not allow.
    """
    # Like ErnieViLConfig, which takes *_config_dict first.
    for key in (f"{tower}_config_dict", f"{tower}_config"):
        given = content.get(key)
        if given is not None and not isinstance(given, dict):
            raise wrong(str(path), key, given, "an object of sizes, as PaddleNLP writes it")
        if given:
            break
    result = {**{name: default for name, (default, _) in table.items()}, **(given or {})}
    for name, (_, (expected, valid)) in table.items():
        if not valid(result[name]):
            raise wrong(str(path), f"{key}.{name}", result[name], expected)
    return result


def arch(path: Path, state: Mapping[str, np.ndarray]) -> dict:
    """`Arch` for a config.json whose weights are `state`, by our names.

    Sizes that the weights do not have are refused here, before a model of them is made.

    Raises:
        UserError: what `read_config` refuses, or sizes that the weights contradict.
    """
    text, vision = read_config(path)
    _check_sizes(path, text, vision, state)
    return {
        "embed_dim": None,
        "Image": {
            "name": "CLIP_vit_base_patch16_224",
            "img_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "embed_dim": vision["hidden_size"],
            "depth": vision["num_hidden_layers"],
            "num_heads": vision["num_attention_heads"],
            "mlp_ratio": mlp_ratio(vision["intermediate_size"], vision["hidden_size"]),
            "qkv_bias": True,
            "epsilon": vision["layer_norm_eps"],
        },
        "Text": {
            "name": "ernie-3.0-base-zh",
            **{key: text[key] for key in _TEXT if key not in ("pad_token_id", "task_id")},
            "epsilon": TEXT_EPSILON,
        },
    }


def _check_sizes(path: Path, text: dict, vision: dict, state: Mapping[str, np.ndarray]) -> None:
    ernie, vit = "text_tower.ernie.", "image_tower.backbone."
    tables, layer = f"{ernie}embeddings.", f"{ernie}encoder.layers."
    expected = (
        ("text_config.vocab_size", text, f"{tables}word_embeddings.weight", 0),
        ("text_config.hidden_size", text, f"{tables}word_embeddings.weight", 1),
        ("text_config.max_position_embeddings", text, f"{tables}position_embeddings.weight", 0),
        ("text_config.intermediate_size", text, f"{layer}0.linear1.weight", 1),
        ("text_config.num_hidden_layers", text, layer, None),
        ("vision_config.hidden_size", vision, CLASS_TOKEN, -1),
        ("vision_config.patch_size", vision, f"{vit}patch_embed.proj.weight", -1),
        ("vision_config.intermediate_size", vision, f"{vit}blocks.0.mlp.fc1.weight", 1),
        ("vision_config.num_hidden_layers", vision, f"{vit}blocks.", None),
    )
    for key, section, name, axis in expected:
        value = section[key.split(".")[1]]
        if axis is None:
            size = len({n[len(name) :].split(".")[0] for n in state if n.startswith(name)})
        elif name not in state or state[name].ndim < 2:
            continue  # it will be named as missing, or as misshapen
        else:
            size = state[name].shape[axis]
        if size and size != value:
            raise _contradiction(path, key, value, size)
    grid, positions = vision["image_size"] // vision["patch_size"], state.get(POSITIONS)
    if positions is not None and positions.ndim == 3 and positions.shape[1] != grid * grid + 1:
        patches = f"{positions.shape[1] - 1} patches"
        raise _contradiction(path, "vision_config.image_size", vision["image_size"], patches)


def _contradiction(path: Path, key: str, value: int, found) -> UserError:
    return UserError(
        f"{path}: {key} is {show(value)}, but the weights beside it have {found}: one of the two "
        "is not of this model"
    )


def mlp_ratio(intermediate: int, hidden: int) -> float:
    """A ratio that gives `intermediate` again when PaddleClas cuts its product with `hidden`."""
    ratio = intermediate / hidden
    return ratio if int(ratio * hidden) == intermediate else math.nextafter(ratio, math.inf)


# -- Writing one -----------------------------------------------------------------------------------


def config_of(model: DualEncoder) -> dict:
    """The content of config.json for a model of the official form."""
    vit, ernie = model.image_tower.backbone, model.text_tower.ernie
    epsilon = ernie.embeddings.layer_norm._epsilon
    if epsilon != TEXT_EPSILON:
        log.warning(
            "PaddleNLP runs the text tower's LayerNorms with epsilon %g, this model has %g: text "
            "embeddings will differ slightly there",
            TEXT_EPSILON,
            epsilon,
        )
    return {
        "architectures": ["ErnieViLModel"],
        "model_type": "ernie_vil",
        "logit_scale_init_value": float(model.temperature),
        "text_config": {
            **{key: getattr(ernie.config, key) for key in _TEXT},
            "layer_norm_eps": epsilon,
            "type_vocab_size": 0,
            "use_task_id": False,
            "model_type": "ernie_vil_text_model",
        },
        "vision_config": {
            "hidden_size": model.image_tower.width,
            "num_hidden_layers": len(vit.blocks),
            "num_attention_heads": vit.blocks[0].attn.num_heads,
            "intermediate_size": vit.blocks[0].mlp.fc1.weight.shape[1],
            "image_size": model.image_tower.img_size,
            "patch_size": vit.patch_embed.patch_size[0],
            "hidden_act": "quick_gelu",
            "layer_norm_eps": vit.norm._epsilon,
            "model_type": "ernie_vil_vision_model",
        },
    }
