"""Which views attract each other, how strongly, and by which loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.limits import PAIR_LOSSES, PAIR_LOSSES_WITH_BIAS, PAIR_NUMBERS
from ernie_vil2.views import SOURCE_OF, VIEWS

_SIGLIP_BIAS = -10.0


class Pair(NamedTuple):
    """Two views whose embeddings of one record attract each other.

    temperature: None shares the model's logit scale; a number is this pair's own, fixed unless
    `learnable`.
    loss: "softmax" for InfoNCE both ways, "sigmoid" for SigLIP's.
    bias: what the sigmoid's learnable bias starts from, None for SigLIP's -10.
    """

    a: str
    b: str
    weight: float = 1.0
    temperature: float | None = None
    learnable: bool = False
    loss: str = "softmax"
    bias: float | None = None

    @property
    def name(self) -> str:
        return f"{self.a}-{self.b}"

    @property
    def sigmoid(self) -> bool:
        return self.loss == "sigmoid"

    @classmethod
    def parse(cls, pair: str | Iterable | Mapping) -> Pair:
        """Read `{views: [a, b], weight, ...}`, `(a, b, weight, ...)` or `"a-b"`.

        Raises UserError for what is no pair, an unknown view, and values out of range.
        """
        given = pair
        try:
            if isinstance(given, Mapping):
                options = dict(given)
                pair = cls(*options.pop("views", ()), **options)
            else:
                pair = cls(*(given.split("-") if isinstance(given, str) else given))
        except TypeError as error:
            raise UserError(
                f"{given!r} is no pair ({error}): give {{views: [a, b], weight: 1.0}}"
            ) from error
        for view in pair[:2]:
            if view not in VIEWS:
                raise UserError(f'no view is named "{view}"{did_you_mean(view, VIEWS)}')
        if pair.a == pair.b:
            raise UserError(f"pair {pair.name} has one view twice: name two different ones")
        if not PAIR_NUMBERS["weight"].allows(pair.weight):
            raise UserError(f"pair {pair.name} has weight {pair.weight}: give a number from 0")
        temperature = PAIR_NUMBERS["temperature"]
        if pair.temperature is not None and not temperature.allows(pair.temperature):
            raise UserError(
                f"pair {pair.name} has temperature {pair.temperature}: give one above 0"
            )
        if pair.loss not in PAIR_LOSSES:
            raise UserError(
                f'pair {pair.name} has loss "{pair.loss}"{did_you_mean(pair.loss, PAIR_LOSSES)}'
            )
        if pair.bias is None:
            return pair._replace(bias=_SIGLIP_BIAS) if pair.sigmoid else pair
        if pair.loss not in PAIR_LOSSES_WITH_BIAS:
            raise UserError(
                f"pair {pair.name} has bias {pair.bias}, which softmax cancels: "
                "leave it out, or give loss: sigmoid"
            )
        if not PAIR_NUMBERS["bias"].allows(pair.bias):
            raise UserError(f"pair {pair.name} has bias {pair.bias}: give a finite number")
        return pair


class Term(NamedTuple):
    """A pair as the loss functions take it.

    a, b: positions of its views in [B, V, D]; sources: what they show.
    """

    a: int
    b: int
    sources: tuple[str, str]
    sigmoid: bool = False

    @classmethod
    def of(cls, pair: Pair, views: Sequence[str]) -> Term:
        """views: names of the V views of [B, V, D]."""
        sources = SOURCE_OF[pair.a], SOURCE_OF[pair.b]
        return cls(views.index(pair.a), views.index(pair.b), sources, pair.sigmoid)
