"""Which views attract each other, how strongly, and by which loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Union

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.limits import PAIR_LOSSES, PAIR_LOSSES_WITH_BIAS, PAIR_NUMBERS
from ernie_vil2.views import SOURCE_OF, VIEWS

# A pair as a user may write it: "a-b", (a, b, weight, ...) or {views: [a, b], weight: ..., ...}.
PairLike = Union[str, Iterable[Any], Mapping[str, Any]]

_SIGLIP_BIAS = -10.0


class Pair(NamedTuple):
    """Two views whose embeddings of one record attract each other.

    Attributes:
        temperature: None shares the model's logit scale; a number is this pair's own.
        learnable: whether a temperature of its own is learnt; else it is fixed.
        loss: "softmax" for InfoNCE both ways, "sigmoid" for SigLIP's.
        bias: what the sigmoid's learnable bias starts from; None stands for SigLIP's -10.
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
    def parse(cls, given: PairLike) -> Pair:
        """Read `{views: [a, b], weight, ...}`, `(a, b, weight, ...)` or `"a-b"`.

        Raises:
            UserError: this is no pair, a view is unknown, or a value is out of range.
        """
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
        pair._check()
        return pair._replace(bias=_SIGLIP_BIAS) if pair.sigmoid and pair.bias is None else pair

    def _check(self) -> None:
        """Raise UserError unless views, numbers and loss are such as `limits.py` allows."""
        for view in self[:2]:
            if view not in VIEWS:
                raise UserError(f'no view is named "{view}"{did_you_mean(view, VIEWS)}')
        if self.a == self.b:
            raise UserError(f"pair {self.name} has one view twice: name two different ones")
        if not PAIR_NUMBERS["weight"].allows(self.weight):
            raise UserError(f"pair {self.name} has weight {self.weight}: give a number from 0")
        temperature = PAIR_NUMBERS["temperature"]
        if self.temperature is not None and not temperature.allows(self.temperature):
            raise UserError(
                f"pair {self.name} has temperature {self.temperature}: give one above 0"
            )
        if self.loss not in PAIR_LOSSES:
            raise UserError(
                f'pair {self.name} has loss "{self.loss}"{did_you_mean(self.loss, PAIR_LOSSES)}'
            )
        if self.bias is None:
            return
        if self.loss not in PAIR_LOSSES_WITH_BIAS:
            raise UserError(
                f"pair {self.name} has bias {self.bias}, which softmax cancels: "
                "leave it out, or give loss: sigmoid"
            )
        if not PAIR_NUMBERS["bias"].allows(self.bias):
            raise UserError(f"pair {self.name} has bias {self.bias}: give a finite number")


class Term(NamedTuple):
    """A pair as the loss functions take it.

    Attributes:
        a, b: positions of its views in [B, V, D].
        sources: what the two views show.
    """

    a: int
    b: int
    sources: tuple[str, str]
    sigmoid: bool = False

    @classmethod
    def of(cls, pair: Pair, views: Sequence[str]) -> Term:
        """The term of `pair`, given the names of the V views of [B, V, D]."""
        sources = SOURCE_OF[pair.a], SOURCE_OF[pair.b]
        return cls(views.index(pair.a), views.index(pair.b), sources, pair.sigmoid)
