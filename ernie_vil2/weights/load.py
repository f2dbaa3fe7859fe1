"""Weights of ours, of the official code and of PaddleNLP's ErnieViLModel, read into our model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle

from ernie_vil2.config.load import check_arch
from ernie_vil2.errors import UserError
from ernie_vil2.models import positions
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.models.lora import merge_adapters
from ernie_vil2.weights.base import add_base, begin, elsewhere, missing_adapters, read_note
from ernie_vil2.weights.sources import arch_of, read, resolve

log = logging.getLogger("ernie_vil2")


def load(
    weights: str | os.PathLike,
    config: str | Path | Mapping | None = None,
    partial: bool = False,
    base: str | os.PathLike | None = None,
) -> DualEncoder:
    """The model with these weights, in eval mode.

    Args:
        weights: a checkpoint folder of ours, or a run folder with `checkpoints/`; a folder of
            PaddleNLP's ErnieViLModel, or a name that PaddleNLP has released, such as
            "ernie_vil-2.0-base-zh", which is downloaded; an official `.pdparams`.
        config: a YAML path or a mapping that holds `Arch`. The official file needs it; for a folder
            it takes the place of what the folder says. Another `img_size` or
            `max_position_embeddings` than the weights have is met by `positions.fit`, and logged.
            It has no say about adapters: the model has those of the weights, or none.
        partial: load what fits although keys are missing, unexpected or wrongly shaped.
        base: of adapters, where the weights below them lie; None: where they were, else where
            `Global.pretrained` of a mapping says.

    Raises:
        UserError: no such weights, damaged ones, no config, keys that do not fit, or another base
            than adapters were made for.
    """
    source, scale = resolve(weights), None
    arch: Mapping | None = check_arch(config) if config is not None else None
    state = read(source)
    if arch is None:
        arch, scale = arch_of(source, state)
    own = arch_of(source, state)[0] if read_note(source) else {}
    towers = {name: _tower(arch[name], own.get(name)) for name in ("Image", "Text")}
    model = build_model({**arch, **towers}, scale)
    if own:
        state = add_base(model, source, state, base or elsewhere(source, config))
    fill(model, source, state, partial)
    model.eval()
    return model


def _tower(arch: Mapping, own: Mapping | None) -> dict:
    """A tower's section of `Arch`, with the adapters of the weights' own one, or without."""
    lora = own["lora"] if own else {**arch["lora"], "rank": None} if "lora" in arch else None
    # The weights come from here; nothing is to be downloaded first.
    return {**arch, "pretrained": False, **({} if lora is None else {"lora": lora})}


def load_whole(source: Path) -> dict[str, np.ndarray]:
    """`read`, and where the weights are adapters, their base with these merged into it."""
    if read_note(source) is None:
        return read(source)
    model = load(source)
    merge_adapters(model)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def load_weights(
    model: DualEncoder, weights: str | os.PathLike, partial: bool = False
) -> list[str]:
    """Fill `model` from any of the formats that `load` reads; its adapters begin.

    Returns:
        With `partial`, what did not fit, a line for each key; it is logged too.

    Raises:
        UserError: no such weights, damaged ones, or without `partial` anything that does not fit.
    """
    source = resolve(weights)
    state = load_whole(source)
    model.base = begin(model, weights, state)
    return fill(model, source, state, partial)


def fill(model: DualEncoder, source: Path, state: Mapping, partial: bool) -> list[str]:
    """Fill `model` from weights by our names; `load_weights` says the rest."""
    wanted = model.state_dict()
    state, resized = positions.fit_all(state, wanted)
    new = missing_adapters(model, state)
    faults = [f"missing {name}" for name in wanted if name not in state and name not in new]
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
