"""Files of the CLIP family: the arrays in them, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ernie_vil2.config.messages import wrong
from ernie_vil2.errors import UserError
from ernie_vil2.files.pdparams import to_float32
from ernie_vil2.files.safetensors import read_safetensors
from ernie_vil2.files.torch_files import read_torch
from ernie_vil2.weights.paddlenlp_config import json_object, number, one_of, section, share, whole

# In a folder, the best first.
_FILES = {
    "huggingface": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
_IMAGE: tuple[str, ...] = ("visual.", "vision_model.", "visual_projection.", "logit_scale")
_ACTIVATIONS = ("quick_gelu", "gelu")
_EPSILON = number("above 0 and below 1", lambda value: 0 < value < 1)
# What the weights do not tell: key -> Hugging Face's default, what is right, and its name here.
_VISION = {
    "num_attention_heads": (12, whole(1, 1000), "num_heads"),
    "hidden_act": ("quick_gelu", one_of(*_ACTIVATIONS), "hidden_act"),
    "layer_norm_eps": (1e-5, _EPSILON, "epsilon"),
}
_TEXT = {
    "num_attention_heads": (12, whole(1, 1000), "num_attention_heads"),
    "hidden_act": ("gelu", one_of("gelu", "relu"), "hidden_act"),
    "layer_norm_eps": (1e-12, _EPSILON, "epsilon"),
    "hidden_dropout_prob": (0.1, share, "hidden_dropout_prob"),
    "attention_probs_dropout_prob": (0.1, share, "attention_probs_dropout_prob"),
}


@dataclass
class Source:
    """Weights of the CLIP family, and what else was found.

    Attributes:
        state: by their names, float32: of the image tower, and of a BERT where there is one.
        left: names of what cannot be read here, such as a text tower that is no BERT.
        image, text: of `Arch.Image` and `Arch.Text`, what the weights do not tell.
        transform: mean and std, where they stand beside the weights.
    """

    state: dict[str, np.ndarray]
    left: list[str]
    image: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    transform: dict = field(default_factory=dict)

    @property
    def is_chinese(self) -> bool:
        """Whether there is a BERT for texts."""
        return any(name.startswith(("bert.", "text_model.")) for name in self.state)


def read(kind: str, path: Path) -> Source:
    """Read a file, or a folder of Hugging Face's or open_clip's.

    Args:
        kind: one of `CLIP` of `weights.conversion`.

    Raises:
        UserError: no such file, damaged, or of another kind.
    """
    folder = path if path.is_dir() else path.parent
    file = path
    if not path.exists():
        raise UserError(f"{path} does not exist: expected a file or a folder of {kind}")
    if path.is_dir():
        names = _FILES.get(kind, ())
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            expected = " or ".join(names) or "a file and no folder"
            raise UserError(f"{path} is a folder without weights of {kind}: expected {expected}")
        file = found[0]
    arrays = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    source = _sorted(file, {name: _as_weight(array) for name, array in arrays.items()})
    if kind == "huggingface":
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} has no config.json, which tells the number of heads")
        _read_huggingface(source, folder / "config.json")
    elif kind == "open_clip":
        source.image["hidden_act"] = "gelu"  # as its own models, unless it says otherwise
        if (folder / "open_clip_config.json").is_file():
            _read_open_clip(source, folder / "open_clip_config.json")
    return source


def _sorted(path: Path, arrays: dict[str, np.ndarray]) -> Source:
    """What belongs to the image tower and to a BERT, and the names of the rest."""
    if "embeddings.class_embedding" in arrays:  # CLIPVisionModel of transformers 5
        arrays = {f"vision_model.{name}": array for name, array in arrays.items()}
    bert = "text_model.embeddings.word_embeddings.weight"
    wanted = _IMAGE
    if bert in arrays or bert.replace("text_model", "bert") in arrays:
        wanted += ("bert.", "text_model.", "text_projection")
    state = {name: array for name, array in arrays.items() if name.startswith(wanted)}
    if not any(name.startswith(_IMAGE[:2]) for name in state):
        raise UserError(
            f"{path} holds no image tower of CLIP: expected names such as visual.conv1.weight or "
            f"vision_model.embeddings.class_embedding, the first is {min(arrays, default='none')}"
        )
    return Source(state, sorted(arrays.keys() - state.keys()))


def _as_weight(array: np.ndarray) -> np.ndarray:
    return to_float32(array) if array.dtype.kind == "f" or array.dtype == np.uint16 else array


# -- What stands beside the weights ----------------------------------------------------------------


def _read_huggingface(source: Source, path: Path) -> None:
    content = json_object(path)
    if content.get("model_type") in ("clip_vision_model", "chinese_clip_vision_model"):
        content = {"vision_config": content}
    for tower, table, target in (("vision", _VISION, "image"), ("text", _TEXT, "text")):
        if tower == "vision" or source.is_chinese:
            checks = {key: (default, right) for key, (default, right, _) in table.items()}
            found = section(path, content, tower, checks)
            setattr(source, target, {ours: found[key] for key, (_, _, ours) in table.items()})
    beside = path.with_name("preprocessor_config.json")
    if beside.is_file():
        _read_normalisation(source, beside, json_object(beside), "image_mean", "image_std")


def _read_open_clip(source: Source, path: Path) -> None:
    content = json_object(path)
    model = content.get("model_cfg", content)
    vision = model.get("vision_cfg", {}) if isinstance(model, dict) else {}
    if not isinstance(vision, dict):
        raise wrong(str(path), "model_cfg.vision_cfg", vision, "an object of sizes")
    if model.get("quick_gelu") is True:
        source.image["hidden_act"] = "quick_gelu"
    head = vision.get("head_width")
    width = source.state.get("visual.class_embedding", np.zeros(0)).size
    if head is not None:
        if type(head) is not int or head < 1 or width % head:
            raise wrong(str(path), "model_cfg.vision_cfg.head_width", head, f"a part of {width}")
        source.image["num_heads"] = width // head
    preprocess = content.get("preprocess_cfg")
    if isinstance(preprocess, dict):
        _read_normalisation(source, path, preprocess, "mean", "std")


def _read_normalisation(source: Source, path: Path, content: Mapping, *keys: str) -> None:
    for ours, key in zip(("mean", "std"), keys):
        values = content.get(key)
        if values is None:
            continue
        numbers = isinstance(values, list) and len(values) == 3
        if not numbers or any(type(v) not in (int, float) or not 0 <= v <= 1 for v in values):
            raise wrong(str(path), key, values, "three numbers from 0 to 1")
        source.transform[ours] = [float(value) for value in values]
