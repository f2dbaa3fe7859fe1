"""Checkpoints of the official code and of PaddleNLP's ErnieViLModel, read as ours and back."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import paddle
import yaml

from ernie_vil2.errors import UserError
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.models.image import VisionTransformer
from ernie_vil2.models.text import PAD_ID, fold_constant_embeddings
from ernie_vil2.weights import read_pdparams, read_safetensors, to_float32, write_safetensors

log = logging.getLogger("ernie_vil2")

# Name prefixes, theirs and ours; * stands for a layer's number. Both directions read these tables.
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


def load(weights, config: str | Path | Mapping | None = None, partial: bool = False) -> DualEncoder:
    """The model with these weights, in eval mode.

    Args:
        weights: a checkpoint folder of ours, or a run folder with `checkpoints/`; a folder of
            PaddleNLP's ErnieViLModel; an official `.pdparams`.
        config: a YAML path or a mapping that holds `Arch`. The official file needs it; for a folder
            it takes the place of what the folder says.
        partial: load what fits although keys are missing, unexpected or wrongly shaped.

    Raises:
        UserError: no such weights, no config, or keys that do not fit.
    """
    from ernie_vil2.config import check_arch

    source = resolve(weights)
    scale = None
    if config is not None:
        arch = check_arch(config)
    elif _is_paddlenlp(source):
        arch = _paddlenlp_arch(source / "config.json")
    elif source.is_dir() and (source / "config.yaml").is_file():
        arch, scale = _our_config(source / "config.yaml")
    else:
        raise UserError(f"{source} does not say what model it is for: give a config with Arch")
    # The weights come from here; nothing is to be downloaded first.
    towers = {name: {**arch[name], "pretrained": False} for name in ("Image", "Text")}
    model = build_model({**arch, **towers}, scale)
    load_weights(model, source, partial)
    model.eval()
    return model


def load_weights(model: DualEncoder, weights, partial: bool = False) -> list[str]:
    """Fill `model` from any of the formats that `load` reads.

    Returns:
        With `partial`, what did not fit, a line for each key; it is logged too.

    Raises:
        UserError: no such weights, or without `partial` anything that does not fit.
    """
    source = resolve(weights)
    state = _read(source)
    wanted = model.state_dict()
    faults = [f"missing {name}" for name in wanted if name not in state]
    for name, array in state.items():
        if name not in wanted:
            faults.append(f"unexpected {name}")
        elif array.shape != tuple(wanted[name].shape):
            faults.append(f"{name} has shape {array.shape}, not {tuple(wanted[name].shape)}")
    if faults and not partial:
        raise UserError(
            f"{source} does not fit the model: {_some(faults)}; correct Arch, or ask for partial "
            "loading"
        )
    for name, tensor in wanted.items():
        array = state.get(name)
        if array is not None and array.shape == tuple(tensor.shape):
            tensor.set_value(paddle.to_tensor(array).astype(tensor.dtype))
    for fault in faults:
        log.warning("%s: %s", source, fault)
    return faults


def save_paddlenlp(model: DualEncoder, folder) -> None:
    """Write `config.json` and `model_state.pdparams` for `ErnieViLModel.from_pretrained(folder)`.

    Raises:
        UserError: a model that ErnieViLModel cannot represent.
    """
    _require_official_form(model, "PaddleNLP's ErnieViLModel")
    state = {}
    for name, array in _rename(_numpy_state(model), _PADDLENLP, back=True).items():
        match = _QKV.fullmatch(name)
        if match:
            for part, piece in zip("qkv", np.split(array, 3, axis=-1)):
                state[f"{match[1]}{part}_proj.{match[3]}"] = piece
        elif name in ("vision_model.class_embedding", "vision_model.positional_embedding.weight"):
            state[name] = array.reshape(array.shape[-1:] if "class" in name else array.shape[1:])
        else:
            state[name] = array
    epsilon = model.text_tower.ernie.embeddings.layer_norm._epsilon
    if epsilon != _PADDLENLP_TEXT_EPSILON:
        log.warning(
            "PaddleNLP runs the text tower's LayerNorms with epsilon %g, this model has %g: text "
            "embeddings will differ slightly there",
            _PADDLENLP_TEXT_EPSILON,
            epsilon,
        )
    folder = _new_folder(folder)
    config = json.dumps(_paddlenlp_config(model), indent=2)
    (folder / "config.json").write_text(config, encoding="utf-8")
    _save_pdparams(state, folder / "model_state.pdparams")


def save_official(model: DualEncoder, path) -> None:
    """Write the official code's `.pdparams`.

    Raises:
        UserError: a model that the official code cannot represent.
    """
    _require_official_form(model, "the official model")
    _new_folder(Path(path).parent)
    _save_pdparams(_rename(_numpy_state(model), _OFFICIAL, back=True), path)


def save_checkpoint(model: DualEncoder, folder) -> None:
    """Write a folder that `load` reads: `model.safetensors` and `config.yaml` with its `Arch`."""
    from ernie_vil2.config import Config, check_arch

    folder = _new_folder(folder)
    write_safetensors(folder / "model.safetensors", model.state_dict())
    Config({"Arch": check_arch({"Arch": model.arch})}).dump(folder / "config.yaml")


# ---- Reading -------------------------------------------------------------------------------------


def resolve(weights) -> Path:
    """The file, or the folder that holds the weights; of a run the best, else the newest."""
    path = Path(weights)
    if path.is_file():
        return path
    for folder in (path, path / "checkpoints" / "best", path / "checkpoints" / "latest"):
        if (folder / "model.safetensors").is_file() or _is_paddlenlp(folder):
            return folder
    if not path.exists():
        raise UserError(f"{path} does not exist: expected a checkpoint folder or a .pdparams file")
    raise UserError(
        f"{path} holds neither model.safetensors nor config.json with model_state.pdparams: "
        "expected a checkpoint of ours or of PaddleNLP's"
    )


def own_vocabulary(weights) -> dict[str, str]:
    """`{"vocab_file": path}` of the vocabulary that lies in a checkpoint of ours, else `{}`."""
    path = resolve(weights) / "vocab.txt"
    return {"vocab_file": str(path)} if path.is_file() else {}


def check_vocabulary(model: DualEncoder, tokenizer, trained: bool) -> None:
    """Refuse a tokenizer with more tokens than the text tower has; doubt any other number.

    trained: the model's weights know a vocabulary already, so that a smaller one is likely not it.
    """
    tokens, rows = tokenizer.vocab_size, model.text_tower.vocab_size
    if tokens > rows:
        raise UserError(
            f"{tokenizer.vocab_file} has {tokens} tokens, the text tower {rows}: set "
            "Arch.Text.vocab_size to at least as many, or name the model's own vocabulary"
        )
    if trained and tokens < rows:
        log.warning(
            "%s has %d tokens, the text tower %d: were the weights trained with it?",
            tokenizer.vocab_file,
            tokens,
            rows,
        )


def _is_paddlenlp(path: Path) -> bool:
    return all((path / name).is_file() for name in ("config.json", "model_state.pdparams"))


def _read(source: Path) -> dict[str, np.ndarray]:
    """The weights by our names; what has no name of ours keeps its own."""
    if source.is_dir() and not _is_paddlenlp(source):
        return read_safetensors(source / "model.safetensors")
    if source.suffix == ".safetensors":
        return read_safetensors(source)
    path = source / "model_state.pdparams" if source.is_dir() else source
    state = {name: _as_weight(array) for name, array in read_pdparams(path).items()}
    if any(name.startswith("vision_model.") for name in state):
        task_id = _text_config(source / "config.json")["task_id"] if source.is_dir() else 0
        state = fold_constant_embeddings(state, "text_model.embeddings.", task_id)
        state = _rename(_join_qkv(state), _PADDLENLP)
    else:
        state = _rename(state, _OFFICIAL)
    for name in ("image_tower.backbone.cls_token", "image_tower.backbone.pos_embed"):
        if name in state:  # [C] or [1 + N, C] -> [1, ..., C]
            shape = state[name].shape
            state[name] = state[name].reshape((1,) * (3 - len(shape)) + shape)
    return state


def _as_weight(array: np.ndarray) -> np.ndarray:
    return to_float32(array) if array.dtype.kind == "f" or array.dtype == np.uint16 else array


def _join_qkv(state: dict) -> dict:
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
            result[joined] = np.concatenate([found[key][1] for key in "qkv"], axis=-1)
        else:  # leave them, to be named as unexpected
            result.update(found.values())
    return result


def _rename(state: dict, table: tuple, back: bool = False) -> dict:
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


def _some(faults: list, most: int = 10) -> str:
    more = f" and {len(faults) - most} more" if len(faults) > most else ""
    return f"{len(faults)} keys: " + "; ".join(faults[:most]) + more


# ---- Configurations ------------------------------------------------------------------------------


def _our_config(path: Path) -> tuple[Mapping, Mapping | None]:
    """`Arch`, and `Loss.logit_scale` where the file is a run's whole configuration."""
    from ernie_vil2.config import check_arch, load_config

    arch = check_arch(path)
    if "Loss" not in yaml.safe_load(path.read_text(encoding="utf-8")):
        return arch, None  # a converted model has no run
    return arch, load_config(path).Loss.logit_scale


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: expected PaddleNLP's config.json")
    return content


# Whatever its config says, PaddleNLP runs the text tower's LayerNorms with this, where the official
# model has 1e-5.
_PADDLENLP_TEXT_EPSILON = 1e-12
# PaddleNLP writes only what differs from these defaults of its own.
_TEXT_DEFAULTS = {
    "vocab_size": 40000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 2048,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": PAD_ID,
    "task_id": 0,
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-6,
}


def _text_config(path: Path) -> dict:
    content = _json(path)
    # Like ErnieViLConfig, which takes *_config_dict first.
    return {
        **_TEXT_DEFAULTS,
        **(content.get("text_config_dict") or content.get("text_config") or {}),
    }


def _paddlenlp_arch(path: Path) -> dict:
    content = _json(path)
    text = _text_config(path)
    vision = {
        **_VISION_DEFAULTS,
        **(content.get("vision_config_dict") or content.get("vision_config") or {}),
    }
    if vision["hidden_act"] != "quick_gelu" or text["pad_token_id"] != PAD_ID:
        raise UserError(
            f"{path} has hidden_act {vision['hidden_act']}, pad_token_id {text['pad_token_id']}: "
            f"expected quick_gelu and {PAD_ID}"
        )
    return {
        "embed_dim": None,
        "Image": {
            "name": "CLIP_vit_base_patch16_224",
            "img_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "embed_dim": vision["hidden_size"],
            "depth": vision["num_hidden_layers"],
            "num_heads": vision["num_attention_heads"],
            "mlp_ratio": _ratio(vision["intermediate_size"], vision["hidden_size"]),
            "qkv_bias": True,
            "epsilon": vision["layer_norm_eps"],
        },
        "Text": {
            "name": "ernie-3.0-base-zh",
            **{key: text[key] for key in _TEXT_DEFAULTS if key not in ("pad_token_id", "task_id")},
            "epsilon": _PADDLENLP_TEXT_EPSILON,
        },
    }


def _ratio(intermediate: int, hidden: int) -> float:
    """A ratio that gives `intermediate` again when PaddleClas cuts its product with `hidden`."""
    ratio = intermediate / hidden
    return ratio if int(ratio * hidden) == intermediate else math.nextafter(ratio, math.inf)


def _paddlenlp_config(model: DualEncoder) -> dict:
    vit, ernie = model.image_tower.backbone, model.text_tower.ernie
    return {
        "architectures": ["ErnieViLModel"],
        "model_type": "ernie_vil",
        "logit_scale_init_value": float(model.temperature),
        "text_config": {
            **{key: getattr(ernie.config, key) for key in _TEXT_DEFAULTS},
            "layer_norm_eps": ernie.embeddings.layer_norm._epsilon,
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


# ---- Writing -------------------------------------------------------------------------------------


def _require_official_form(model: DualEncoder, what: str) -> None:
    tower = model.image_tower
    reasons = (
        (model.image_projection is not None, "a projection (Arch.embed_dim)"),
        (tower.head is not None, "a Linear after the image backbone (Arch.Image.out_dim)"),
        (not tower.name.startswith("CLIP_vit_"), f"the image backbone {tower.name}"),
    )
    for applies, reason in reasons:
        if applies:
            raise UserError(f"{what} has no place for {reason}: only --to ernie_vil2 keeps it")
    assert isinstance(tower.backbone, VisionTransformer)
    if tower.backbone.blocks[0].attn.qkv.bias is None:
        raise UserError(f"{what} needs Arch.Image.qkv_bias: only --to ernie_vil2 keeps it false")


def _numpy_state(model: DualEncoder) -> dict[str, np.ndarray]:
    return {name: tensor.astype("float32").numpy() for name, tensor in model.state_dict().items()}


def _save_pdparams(state: dict, path) -> None:
    paddle.save({name: paddle.to_tensor(array) for name, array in state.items()}, str(path))


def _new_folder(path) -> Path:
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.strerror}") from error
    return path
