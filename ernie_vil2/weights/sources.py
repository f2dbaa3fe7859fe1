"""Weights as people have them: where they lie, whose they are, and the arrays in them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from ernie_vil2.checkpoints import store
from ernie_vil2.config.load import check_arch, load_config
from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.files.pdparams import pytorch_file, read_pdparams, to_float32
from ernie_vil2.files.safetensors import read_safetensors
from ernie_vil2.weights import names, paddlenlp, paddlenlp_config
from ernie_vil2.weights.ours import OURS


def resolve(weights: str | os.PathLike) -> Path:
    """The file, or the folder that holds the weights; of a run the best, else the newest.

    A name that PaddleNLP has released is downloaded through it, unless a file or folder has this
    name.

    Raises:
        UserError: no such weights, or none in the folder.
    """
    path = Path(weights)
    if path.is_file():
        return path
    for folder in (path, path / "checkpoints" / "best", path / "checkpoints" / "latest"):
        if (folder / OURS).is_file() or paddlenlp.is_model_folder(folder):
            return folder
    if not path.exists():
        released = paddlenlp.released()
        if str(weights) in released:
            return paddlenlp.download(str(weights))
        hint = did_you_mean(str(weights), released)
        raise UserError(
            f"{path} does not exist: expected a checkpoint folder, a .pdparams file, or a name "
            f"that PaddleNLP has released{hint}"
        )
    files = path.iterdir() if path.is_dir() else ()  # else a device, say
    foreign = sorted(p.name for p in files if p.suffix in (".pt", ".pth", ".bin"))
    pytorch = (
        f"; {foreign[0]} is a PyTorch file, which tools/convert.py --from KIND reads where it is "
        "CLIP's"
        if foreign
        else ""
    )
    raise UserError(
        f"{path} holds neither model.safetensors nor config.json with model_state.pdparams: "
        f"expected a checkpoint of ours or of PaddleNLP's{pytorch}"
    )


def read(source: Path) -> dict[str, np.ndarray]:
    """The weights by our names, float32; what has no name of ours keeps its own.

    Raises:
        UserError: a file that is damaged, no file of weights, or not the one that a checkpoint's
            manifest describes.
    """
    store.check_weights(source)
    task_id = 0
    path = source
    if source.is_dir():
        path = next(p for p in (source / n for n in paddlenlp.WEIGHTS) if p.is_file())
        if (source / paddlenlp.CONFIG).is_file():
            task_id = paddlenlp_config.read_config(source / paddlenlp.CONFIG)[0]["task_id"]
    if path.suffix == ".safetensors":
        state = read_safetensors(path)
        maker = _safetensors_maker(path)
        if maker == "pt":  # the same names, but its matrices are transposed
            raise pytorch_file(path)
    else:
        state = read_pdparams(path)
    return names.to_ours({name: _as_weight(array) for name, array in state.items()}, task_id)


def arch_of(source: Path, state: Mapping[str, np.ndarray]) -> tuple[Mapping, Mapping | None]:
    """`Arch` of the model that the weights are for, and `Loss.logit_scale` where the source has it.

    Args:
        state: the weights, by our names.

    Raises:
        UserError: the source does not say, or what it says does not fit its weights.
    """
    if source.is_dir() and (source / "config.yaml").is_file():
        path = source / "config.yaml"
        arch = check_arch(path)
        if "Loss" not in yaml.safe_load(path.read_text(encoding="utf-8")):
            return arch, None  # a converted model has no run
        return arch, load_config(path).Loss.logit_scale
    if source.is_dir() and (source / paddlenlp.CONFIG).is_file():
        return paddlenlp_config.arch(source / paddlenlp.CONFIG, state), None
    raise UserError(f"{source} does not say what model it is for: give a config with Arch")


def _as_weight(array: np.ndarray) -> np.ndarray:
    return to_float32(array) if array.dtype.kind == "f" or array.dtype == np.uint16 else array


def _safetensors_maker(path: Path) -> str | None:
    """The framework that a safetensors file says it was written by: "pt", "np", "pd"."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {}).get("format")
