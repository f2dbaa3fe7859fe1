"""Means of several models' weights: between two of them, and of many (soups).

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT, arXiv 2109.01903) and
"Model soups" (arXiv 2203.05482). All is added up in float64 and rounded once, so that a mean of one
model is that model to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.weights.load import load_whole
from ernie_vil2.weights.sources import arch_of, resolve
from ernie_vil2.weights.vocabulary import own_vocabulary

State = Mapping[str, np.ndarray]
# keys of a tower that its function depends on, and that the shapes of its weights do not tell
_FUNCTION = {
    "Image": ("name", "img_size", "num_heads", "epsilon", "hidden_act", "activation"),
    "Text": ("kind", "num_attention_heads", "epsilon", "hidden_act"),
}


_REMEDY = "merge models of one Arch"


class Model(NamedTuple):
    """Whole weights, and what they are for.

    Attributes:
        path: as the user names them.
        state: by our names; of adapters with their base.
        arch: `Arch`, None where the source does not say.
        words: of the vocabulary beside them, None where none lies there.
    """

    path: str
    state: State
    arch: Mapping | None
    words: list[str] | None


def read_model(path: str) -> Model:
    """Weights of any format that `ernie_vil2.load` takes.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    source = resolve(path)
    state = load_whole(source)
    arch = arch_of(source, state)[0] if source.is_dir() else None
    vocabulary = own_vocabulary(path).get("vocab_file")
    words = Path(vocabulary).read_text(encoding="utf-8").splitlines() if vocabulary else None
    return Model(path, state, arch, words)


def check_alike(one: Model, other: Model) -> None:
    """Refuse two models of which no mean can be taken.

    Raises:
        UserError: tensors, functions or vocabularies differ; in one line, with the first.
    """
    pair = f"{one.path} and {other.path} cannot be merged: "
    for first, second in ((one, other), (other, one)):
        if alone := sorted(first.state.keys() - second.state.keys()):
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise UserError(f"{pair}only {first.path} has {alone[0]}{more}: {_REMEDY}")
    for name, array in one.state.items():
        there = other.state[name]
        if array.shape != there.shape:
            raise UserError(
                f"{pair}{name} has shape {list(array.shape)} and {list(there.shape)}: {_REMEDY}"
            )
        if array.dtype.kind != "f" and not np.array_equal(array, there):
            raise UserError(f"{pair}{name} holds other whole numbers, of which there is no mean")
    for tower, keys in _FUNCTION.items() if one.arch and other.arch else ():
        for key in keys:
            here, there = (m.arch[tower].get(key) for m in (one, other))  # type: ignore[index]
            if None not in (here, there) and here != there:
                raise UserError(f"{pair}Arch.{tower}.{key} is {here} and {there}: {_REMEDY}")
    if one.words and other.words and one.words != other.words:
        raise UserError(
            f"{pair}their vocabularies differ: train both from one, with one Tokenizer.vocab_file"
        )


def between(one: State, other: State, alpha: float) -> dict[str, np.ndarray]:
    """(1 - alpha) * one + alpha * other; at 0 and 1 that model itself."""
    if alpha in (0, 1):
        return dict(other if alpha else one)
    return {
        name: _round((1 - alpha) * _wide(array) + alpha * _wide(other[name]), array)
        for name, array in one.items()
    }


class Soup:
    """The mean of models that come one after another, so that few are in memory."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: dict[str, np.ndarray] = {}
        self._like: State = {}

    def add(self, state: State) -> None:
        """Take a model in."""
        self._sum = self._with(state)
        self._like, self.count = state, self.count + 1

    def mean(self, more: State | None = None) -> dict[str, np.ndarray]:
        """Of those taken in, and one `more`."""
        total, like = (self._sum, self._like) if more is None else (self._with(more), more)
        count = self.count + (more is not None)
        return {name: _round(array / count, like[name]) for name, array in total.items()}

    def _with(self, state: State) -> dict[str, np.ndarray]:
        wide = {name: _wide(array) for name, array in state.items()}
        return {n: self._sum[n] + array for n, array in wide.items()} if self._sum else wide


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _round(total: np.ndarray, like: np.ndarray) -> np.ndarray:
    return total.astype(like.dtype) if like.dtype.kind == "f" else like
