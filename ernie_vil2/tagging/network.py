"""Another project's exported model on Paddle Inference: its files, its configuration, its run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ernie_vil2.data.arrays import Array
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable

_STEMS = ("model", "inference")  # PaddleDetection's and PaddleClas's
_CONFIGURATIONS = ("infer_cfg.yml", "inference.yml", "inference.yaml")
_SHOWN = 16  # digits of a checksum


class ModelFiles:
    """What an exported model's folder holds.

    Args:
        folder: with `model.pdmodel` (Paddle 3: `.json`), `model.pdiparams` and the configuration.
        config: the configuration, where it is not in the folder under its usual name.

    Attributes:
        path: of the configuration.
        content: what it says.
        origin: the folder's name and a checksum of program and weights.

    Raises:
        UserError: a file that is missing or cannot be read.
    """

    def __init__(self, folder: str, config: str | None = None):
        place = Path(folder)
        self.program, self.weights = _model(place)
        self.path = Path(config) if config else _first(place, _CONFIGURATIONS)
        self.content = _read(self.path)
        digest = hashlib.sha256()
        for path in (self.program, self.weights):
            digest.update(durable.sha256(path).encode())
        self.origin = f"{place.resolve().name} sha256:{digest.hexdigest()[:_SHOWN]}"


class Network:
    """A model with several inputs and outputs.

    Detectors run without oneDNN on a CPU, as PaddleDetection runs them: its kernels lack some of
    their operators in some releases.
    """

    def __init__(self, files: ModelFiles, device: str = "cpu", threads: int = 1):
        from ernie_vil2.serving import program

        self._predictor = program.load(
            files.program, files.weights, device=device, threads=threads, onednn=False
        )
        self._inputs = self._predictor.get_input_names()

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs, in their order.

        Args:
            feeds: by name; those that the model does not ask for are left out. A model with one
                input, of whatever name, gets "image".

        Raises:
            UserError: it asks for another.
        """
        for name in self._inputs:
            fed = feeds.get("image" if len(self._inputs) == 1 else name)
            if fed is None:
                raise UserError(
                    f"the model asks for an input {name}: expected one of {', '.join(feeds)}"
                )
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(fed))
        self._predictor.run()
        names = self._predictor.get_output_names()
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in names]


def _model(folder: Path) -> tuple[Path, Path]:
    for stem in _STEMS:
        for suffix in (".pdmodel", ".json"):
            program, weights = folder / f"{stem}{suffix}", folder / f"{stem}.pdiparams"
            if program.is_file() and weights.is_file():
                return program, weights
    raise UserError(
        f"{folder} holds no exported model: expected model.pdmodel or inference.pdmodel (Paddle 3: "
        ".json) and its .pdiparams, as tools/export_model.py of PaddleDetection and PaddleClas "
        "write them"
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} holds no {' or '.join(names)}: name its configuration with --model-config"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is a {type(content).__name__}: expected keys and values")
    return content
