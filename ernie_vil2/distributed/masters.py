"""float32 masters of half-precision weights, and their gradients in float32 (AMP O2).

Paddle's optimizers can keep masters themselves (`multi_precision`), but make them of weights that
are rounded already, keep them where averages and checkpoints do not look, take half-precision
gradients that several backwards have added up in half precision, and have no kernels for it on a
CPU. Here a master is a parameter like others: the optimizer, clipping, averages and checkpoints
know nothing of halves, which are what forwards compute with, and are rounded anew from the masters
after each step. Mixed precision with master weights: Micikevicius et al. 2018, arXiv 1710.03740.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import paddle
from paddle import nn

from ernie_vil2.distributed.memory import numbers


class _Elsewhere:
    """Where a gradient is gathered whose master another process has."""

    grad: paddle.Tensor | None = None

    def clear_gradient(self, set_to_zero: bool = False) -> None:
        self.grad = None


class Masters(Mapping[str, paddle.Tensor]):
    """Name -> what has the gradient of a parameter, and is stepped: its master, or itself.

    After each backward the gradient of a half-precision parameter is added to its master's. It is
    on its master before hooks see it that are registered after this is made.

    Args:
        parameters: those that learn, by name, half-precision ones among them.
        originals: float32 values of all half-precision parameters among them, before they were
            rounded.
    """

    def __init__(
        self, parameters: Mapping[str, paddle.Tensor], originals: Mapping[str, paddle.Tensor]
    ):
        self.halves = {name: p for name, p in parameters.items() if name in originals}
        self._holders = dict(parameters)
        for name, half in self.halves.items():
            self._holders[name] = _parameter(originals[name], half)
            half._register_backward_hook(partial(self._on_gradient, name))

    def __getitem__(self, name: str) -> paddle.Tensor:
        return self._holders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def full(self) -> dict[str, paddle.Tensor]:
        """Name -> float32 master, of the half-precision parameters that this process steps."""
        masters = {name: self._holders[name] for name in self.halves}
        return {n: m for n, m in masters.items() if not isinstance(m, _Elsewhere)}

    def keep(self, names: Collection[str]) -> None:
        """Free the masters of all others, which other processes have."""
        for name in self.halves:
            if name not in names:
                self._holders[name] = _Elsewhere()

    @paddle.no_grad()
    def _on_gradient(self, name: str, *_: object) -> None:
        half, holder = self.halves[name], self._holders[name]
        gradient = half.grad.astype("float32")
        half.clear_gradient(False)
        if holder.grad is None:
            holder.grad = gradient
        else:
            holder.grad.add_(gradient)

    @paddle.no_grad()
    def round(self) -> None:
        """Bring the half-precision parameters what their masters have become."""
        for name, master in self.full.items():
            half = self.halves[name]
            paddle.assign(master.astype(half.dtype), half)

    def count_in(self, held: dict[str, int]) -> dict[str, int]:
        """`memory.bytes_held` of the parameters, with what these have in float32 beside them."""
        gradients = [self._holders[n].grad for n in self.halves]
        more = {
            "optimizer": 4 * sum(map(numbers, self.full.values())),
            "gradients": 4 * sum(numbers(g) for g in gradients if g is not None),
        }
        return {kind: size + more.get(kind, 0) for kind, size in held.items()}


def _parameter(value: paddle.Tensor, half: paddle.Tensor) -> paddle.Tensor:
    """A float32 parameter with `value`, which optimizers and their states know as they know `half`.

    Args:
        value: float32, of half's shape.
    """
    zeros = nn.initializer.Constant(0.0)
    master = paddle.create_parameter(half.shape, "float32", default_initializer=zeros)
    paddle.assign(value, master)
    master.name = half.name  # which names its optimizer's state
    master.optimize_attr, master.regularizer = half.optimize_attr, half.regularizer
    return master
