"""Data parallelism: each process holds all of the model, and gradients are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import paddle
from paddle import nn

from ernie_vil2.distributed import ranks
from ernie_vil2.distributed.memory import bytes_held


class Replicated:
    """A `Parallel` whose processes all step the whole model alike.

    Gradients are averaged while the backward goes on, so that little is left for its steps to do.
    """

    def __init__(self, objective: nn.Layer, parameters: Mapping[str, paddle.Tensor]):
        self.objective = objective
        self.owned = parameters
        self.layer = ranks.wrap(objective)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.layer(*inputs, **named)

    def no_sync(self) -> AbstractContextManager[None]:
        return self.layer.no_sync() if ranks.world_size() > 1 else nullcontext()

    def reduce_gradients(self) -> None:
        pass  # the backward did

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer: paddle.optimizer.Optimizer) -> None:
        scaler.unscale_(optimizer)

    def clip_gradients(self, max_norm: float | None) -> paddle.Tensor:
        return clip_gradients(self.owned.values(), max_norm)

    def clear_gradients(self, optimizer: paddle.optimizer.Optimizer) -> None:
        optimizer.clear_grad()

    def publish(self) -> None:
        pass  # all have stepped alike

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, tensors: Mapping[str, paddle.Tensor]) -> Mapping[str, paddle.Tensor]:
        return tensors

    def memory(self, optimizer: paddle.optimizer.Optimizer | None = None) -> dict[str, int]:
        return bytes_held(self.owned.values(), optimizer)


def clip_gradients(parameters: Iterable[paddle.Tensor], max_norm: float | None) -> paddle.Tensor:
    """`Parallel.clip_gradients` of parameters whose gradients are all in this process."""
    bound = float("inf") if max_norm is None else max_norm
    return paddle.nn.utils.clip_grad_norm_(list(parameters), bound)
