"""Data parallelism: each process holds all of the model, and gradients are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import paddle
from paddle import nn

from ernie_vil2.distributed import ranks
from ernie_vil2.distributed.clip import clip_gradients
from ernie_vil2.distributed.masters import Masters
from ernie_vil2.distributed.memory import bytes_held, numbers

_TOGETHER = 1 << 24  # numbers in a collective: 64 MiB, and as many in the copy that is sent


class Replicated:
    """A `Parallel` whose processes all step the whole model alike.

    Gradients are averaged while the backward goes on, so that little is left for its steps to do;
    those of half-precision weights, which are summed in float32, after it.

    Args:
        originals: as `Masters` takes them.
    """

    def __init__(
        self,
        objective: nn.Layer,
        parameters: Mapping[str, paddle.Tensor],
        originals: Mapping[str, paddle.Tensor] | None = None,
    ):
        self.objective = objective
        self.masters = Masters(parameters, originals or {})
        self.owned: Mapping[str, paddle.Tensor] = dict(self.masters)
        self._has_halves = bool(self.masters.halves)
        if not self._has_halves:
            self.layer = ranks.wrap(objective)
            return
        # DataParallel would reduce half-precision gradients, of which there are none
        self.layer = objective
        learning = {id(p) for p in parameters.values()}
        others = [t for t in objective.state_dict().values() if id(t) not in learning]
        for tensor in [*self.owned.values(), *others]:
            ranks.broadcast_(tensor, 0)
        self.masters.round()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.layer(*inputs, **named)

    def no_sync(self) -> AbstractContextManager[None]:
        return self.layer.no_sync() if self.layer is not self.objective else nullcontext()

    def reduce_gradients(self) -> None:
        if self._has_halves:  # else the backward did
            average_gradients(self.owned.values())

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer: paddle.optimizer.Optimizer) -> None:
        scaler.unscale_(optimizer)

    def clip_gradients(self, max_norm: float | None) -> paddle.Tensor:
        return clip_gradients(self.owned.values(), max_norm)

    def publish(self) -> None:
        self.masters.round()  # and nothing else: all have stepped alike

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, tensors: Mapping[str, paddle.Tensor]) -> Mapping[str, paddle.Tensor]:
        return tensors

    def memory(self, optimizer: paddle.optimizer.Optimizer | None = None) -> dict[str, int]:
        held = bytes_held(
            [p for p in self.objective.parameters() if not p.stop_gradient], optimizer
        )
        return self.masters.count_in(held)


@paddle.no_grad()
def average_gradients(parameters: Iterable[paddle.Tensor]) -> None:
    """Bring all processes the means of their gradients, float32, many in one collective."""
    world = ranks.world_size()
    learning = [p for p in parameters if p.grad is not None]
    if world == 1:
        return
    for group in _groups(learning):
        flat = paddle.concat([p.grad.reshape([-1]) for p in group]) / world
        ranks.all_reduce_(flat)
        for p, part in zip(group, flat.split([numbers(p) for p in group])):
            p.grad = part.reshape(p.shape)


def _groups(parameters: list[paddle.Tensor]) -> list[list[paddle.Tensor]]:
    """Parameters in their order, with up to `_TOGETHER` numbers a group where one has not more."""
    groups: list[list[paddle.Tensor]] = []
    count = _TOGETHER
    for p in parameters:
        if count + numbers(p) > _TOGETHER:
            groups.append([])
            count = 0
        groups[-1].append(p)
        count += numbers(p)
    return groups
