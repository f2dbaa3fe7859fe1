"""Weights of ours, of the official code and of PaddleNLP's ErnieViLModel, read into our model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import paddle

from ernie_vil2.config.load import check_arch
from ernie_vil2.errors import UserError
from ernie_vil2.models import positions
from ernie_vil2.models.dual_encoder import DualEncoder, build_model
from ernie_vil2.weights.sources import arch_of, read, resolve

log = logging.getLogger("ernie_vil2")


def load(
    weights: str | os.PathLike, config: str | Path | Mapping | None = None, partial: bool = False
) -> DualEncoder:
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
    source, scale = resolve(weights), None
    arch: Mapping | None = check_arch(config) if config is not None else None
    state = read(source)
    if arch is None:
        arch, scale = arch_of(source, state)
    # The weights come from here; nothing is to be downloaded first.
    towers = {name: {**arch[name], "pretrained": False} for name in ("Image", "Text")}
    model = build_model({**arch, **towers}, scale)
    fill(model, source, state, partial)
    model.eval()
    return model


def load_weights(
    model: DualEncoder, weights: str | os.PathLike, partial: bool = False
) -> list[str]:
    """Fill `model` from any of the formats that `load` reads.

    Returns:
        With `partial`, what did not fit, a line for each key; it is logged too.

    Raises:
        UserError: no such weights, damaged ones, or without `partial` anything that does not fit.
    """
    source = resolve(weights)
    return fill(model, source, read(source), partial)


def fill(model: DualEncoder, source: Path, state: Mapping, partial: bool) -> list[str]:
    """Fill `model` from weights by our names; `load_weights` says the rest."""
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
