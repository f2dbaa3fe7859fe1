"""How pictures and texts are prepared that weights were trained for, where their folder says it."""

from __future__ import annotations

import logging
import os
from typing import Any

import yaml

from ernie_vil2.config.load import Config
from ernie_vil2.config.schema import SCHEMA
from ernie_vil2.errors import UserError
from ernie_vil2.preprocessing import Preprocessing, preprocessing_of
from ernie_vil2.weights.paddlenlp_programs import has_programs
from ernie_vil2.weights.sources import resolve

log = logging.getLogger("ernie_vil2")

_KEYS = ("eval", "mean", "std")


def own_preprocessing(weights: str | os.PathLike) -> dict[str, Any]:
    """`eval`, `mean` and `std` of the configuration beside weights, if it states `eval`, else `{}`.

    Raises:
        UserError: a configuration that cannot be read, or of another version that has more names.
    """
    stated = {} if has_programs(weights) else _beside(weights, "Transform", _KEYS)
    return stated if stated.get("eval") else {}


def own_tokenizer(weights: str | os.PathLike) -> dict[str, Any] | None:
    """The section `Tokenizer` of the configuration beside weights; None where it has none.

    Raises:
        UserError: a configuration that cannot be read, or with a value that cannot be.
    """
    keys = ("vocab_file", "max_len", "lowercase", "straight_quotes")
    return _beside(weights, "Tokenizer", keys) or None


def _beside(weights: str | os.PathLike, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Keys of a section of the configuration beside weights; `{}` where it states none of them."""
    path = resolve(weights) / "config.yaml"
    if not path.is_file():
        return {}
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    section = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(section, dict) or not section.keys() & set(keys):
        return {}
    stated = {key: section[key] for key in keys if key in section}
    checked = SCHEMA.fields[name].check(stated, name, str(path), whole=True)
    return {key: checked[key] for key in keys}


def choose_preprocessing(weights: str | os.PathLike, config: Config) -> Preprocessing:
    """What pictures go through before a model with these weights sees them.

    `Transform.eval` of the configuration decides; where it is null the weights' folder does, and
    where that does not say it, it is the official one with the configuration's mean and std.
    """
    if config.Transform.eval is None:
        return preprocessing_of(own_preprocessing(weights) or config.Transform)
    stated = preprocessing_of(config.Transform)
    warn_of_another(weights, stated)
    return stated


def warn_of_another(weights: str | os.PathLike, stated: Preprocessing) -> None:
    """Log a warning where the weights' folder asks for another preprocessing than `stated`."""
    own = own_preprocessing(weights)
    if own and (trained := preprocessing_of(own)) != stated:
        log.warning(
            "Transform asks for %s, but the weights of %s were trained for %s",
            _said(stated),
            weights,
            _said(trained),
        )


def _said(preprocessing: Preprocessing) -> str:
    name, mean, std = preprocessing
    return f"{name} with mean {list(mean)} and std {list(std)}"
