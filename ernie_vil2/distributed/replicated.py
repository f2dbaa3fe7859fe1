"""Data parallelism: each process holds all of the model, and gradients are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import paddle
from paddle import nn

from ernie_vil2.distributed import ranks
from ernie_vil2.distributed.clip import clip_gradients
from ernie_vil2.distributed.masters import Masters
from ernie_vil2.distributed.memory import bytes_held
from ernie_vil2.distributed.reducer import Reducer


class Replicated:
    """A `Parallel` whose processes all step the whole model alike.

    Gradients are averaged while the backward goes on, so that little is left for its steps to do,
    those of half-precision weights in float32.

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
        self._reducer: Reducer | None = None
        self._sync = True
        if not self.masters.halves or ranks.world_size() == 1:
            self.layer = ranks.wrap(objective)
            return
        self.layer, self._reducer = objective, Reducer(parameters, self.masters)
        learning = {id(p) for p in parameters.values()}
        others = [t for t in objective.state_dict().values() if id(t) not in learning]
        for tensor in [*self.owned.values(), *others]:  # as DataParallel does
            ranks.broadcast_(tensor, 0)
        self.masters.round()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._reducer and self._sync and paddle.is_grad_enabled():
            self._reducer.begin()
        return self.layer(*inputs, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self._sync = False
        of_paddle = self.layer is not self.objective
        try:
            with self.layer.no_sync() if of_paddle else nullcontext():
                yield
        finally:
            self._sync = True

    def reduce_gradients(self) -> None:
        if self._reducer:  # else the backward did
            self._reducer.finish()

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
