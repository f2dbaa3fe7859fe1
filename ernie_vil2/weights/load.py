"""Checkpoints of the official code and of PaddleNLP's ErnieViLModel, read as ours and back."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import folder_beside, replacing, sealed, sha256
from ernie_vil2.files.tensors import write_safetensors
from ernie_vil2.models import positions
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.models.image_backbone import VisionTransformer
from ernie_vil2.weights import names, paddlenlp
from ernie_vil2.weights.sources import OURS, arch_of, read, resolve
from ernie_vil2.weights.vocabulary import check_vocabulary, own_vocabulary

__all__ = [
    "check_vocabulary",
    "load",
    "load_weights",
    "own_vocabulary",
    "resolve",
    "save_checkpoint",
    "save_official",
    "save_paddlenlp",
]

log = logging.getLogger("ernie_vil2")


# -- Reading ---------------------------------------------------------------------------------------


def load(weights, config: str | Path | Mapping | None = None, partial: bool = False) -> DualEncoder:
    """The model with these weights, in eval mode.

    Args:
        weights: a checkpoint folder of ours, or a run folder with `checkpoints/`; a folder of
            PaddleNLP's ErnieViLModel, or a name that PaddleNLP has released, such as
            "ernie_vil-2.0-base-zh", which is downloaded; an official `.pdparams`.
        config: a YAML path or a mapping that holds `Arch`. The official file needs it; for a folder
            it takes the place of what the folder says. Another `img_size` or
            `max_position_embeddings` than the weights have is met by `positions.fit`, and logged.
        partial: load what fits although keys are missing, unexpected or wrongly shaped.

    Raises:
        UserError: no such weights, damaged ones, no config, or keys that do not fit.
    """
    from ernie_vil2.config.load import check_arch

    source, scale = resolve(weights), None
    arch = check_arch(config) if config is not None else None
    if arch is None and source.is_file():
        raise UserError(f"{source} does not say what model it is for: give a config with Arch")
    state = read(source)
    if arch is None:
        arch, scale = arch_of(source, state)
    # The weights come from here; nothing is to be downloaded first.
    towers = {name: {**arch[name], "pretrained": False} for name in ("Image", "Text")}
    model = build_model({**arch, **towers}, scale)
    _fill(model, source, state, partial)
    model.eval()
    return model


def load_weights(model: DualEncoder, weights, partial: bool = False) -> list[str]:
    """Fill `model` from any of the formats that `load` reads.

    Returns:
        With `partial`, what did not fit, a line for each key; it is logged too.

    Raises:
        UserError: no such weights, damaged ones, or without `partial` anything that does not fit.
    """
    source = resolve(weights)
    return _fill(model, source, read(source), partial)


def _fill(model: DualEncoder, source: Path, state: Mapping, partial: bool) -> list[str]:
    wanted = model.state_dict()
    state, resized = positions.fit_all(state, wanted)
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
    for line in (*resized, *faults):
        log.warning("%s: %s", source, line)
    return faults


def _some(faults: list, most: int = 10) -> str:
    more = f" and {len(faults) - most} more" if len(faults) > most else ""
    return f"{len(faults)} keys: " + "; ".join(faults[:most]) + more


# -- Writing ---------------------------------------------------------------------------------------


def save_paddlenlp(model: DualEncoder, folder, vocab_file=None, force: bool = False) -> None:
    """Write `config.json` and `model_state.pdparams` for `ErnieViLModel.from_pretrained(folder)`.

    vocab_file: the tokenizer's, copied to vocab.txt beside them.
    force: remove `model.safetensors` from the folder, which both PaddleNLP and `load` read first.

    Raises:
        UserError: a model that ErnieViLModel cannot represent, or a folder that cannot be written
            or holds `model.safetensors`.
    """
    _require_official_form(model, "PaddleNLP's ErnieViLModel")
    folder = Path(folder)
    if (folder / OURS).exists() and not force:
        raise UserError(f"{folder} holds other weights, {OURS}: name a new folder")
    with folder_beside(folder) as draft:
        _save_pdparams(names.to_paddlenlp(_numpy_state(model)), draft / "model_state.pdparams")
        config = json.dumps(paddlenlp.config_of(model), indent=2)
        (draft / "config.json").write_text(config, encoding="utf-8")
        _copy_vocabulary(vocab_file, draft)
    for name in (OURS, "config.yaml", "manifest.json") if (folder / OURS).exists() else ():
        (folder / name).unlink(missing_ok=True)


def save_official(model: DualEncoder, path) -> None:
    """Write the official code's `.pdparams`.

    Raises:
        UserError: a model that the official code cannot represent, or a file that cannot be
            written.
    """
    _require_official_form(model, "the official model")
    with replacing(Path(path)) as draft:
        _save_pdparams(names.to_official(_numpy_state(model)), draft)


def save_checkpoint(model: DualEncoder, folder, vocab_file=None) -> None:
    """Write a folder that `load` reads: `model.safetensors` and `config.yaml` with its `Arch`.

    A manifest of their checksums lies beside them, as in a run's checkpoint.

    vocab_file: the tokenizer's, copied to vocab.txt.

    Raises:
        UserError: a folder that cannot be written.
    """
    from ernie_vil2.config.load import Config, check_arch

    with folder_beside(Path(folder)) as draft:
        write_safetensors(draft / OURS, model.state_dict())
        Config({"Arch": check_arch({"Arch": model.arch})}).dump(draft / "config.yaml")
        _copy_vocabulary(vocab_file, draft)
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(draft.iterdir())
        }
        (draft / "manifest.json").write_text(sealed({"files": files}), encoding="utf-8")


def _copy_vocabulary(vocab_file, folder: Path) -> None:
    if vocab_file is not None:
        (folder / "vocab.txt").write_bytes(Path(vocab_file).read_bytes())


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
    tensors = {name: paddle.to_tensor(array) for name, array in state.items()}
    for name, tensor in tensors.items():
        tensor.name = name  # written down too; Paddle counts up, and equal weights gave other bytes
    paddle.save(tensors, str(path))
