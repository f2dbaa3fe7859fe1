"""How the processes of a run share its model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import paddle

from ernie_vil2 import distributed
from ernie_vil2.distributed.sharded import Sharding, bytes_held
from ernie_vil2.training.objective import Objective
from ernie_vil2.training.optim import clip_gradients


class Replicated:
    """Each process holds all of the model; gradients are averaged while the backward goes on."""

    def __init__(self, objective: Objective, parameters: Mapping):
        self.objective = objective
        self.owned = parameters  # what this process's optimizer steps
        self.layer = distributed.wrap(objective)

    def __call__(self, *inputs, **named):
        return self.layer(*inputs, **named)

    def no_sync(self):
        """Inside, a backward adds to this process's own gradients."""
        return self.layer.no_sync() if distributed.world_size() > 1 else nullcontext()

    def reduce_gradients(self) -> None:
        """Bring each owned parameter the mean gradient over processes; here the backward did."""

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer) -> None:
        """Undo the loss scale in the gradients."""
        scaler.unscale_(optimizer)

    def clip_gradients(self, max_norm) -> paddle.Tensor:
        """`optim.clip_gradients` over the whole model."""
        return clip_gradients(self.owned.values(), max_norm)

    def publish(self) -> None:
        """Send the owned parameters' values to all; here all have stepped alike."""

    def whole(self):
        """Inside, this process has all weights; here always."""
        return nullcontext()

    def gather(self, tensors: Mapping) -> Mapping:
        """All processes' `tensors`, of owned parameters, on rank 0; here it has them."""
        return tensors

    def memory(self, optimizer=None) -> dict[str, int]:
        """`bytes_held` by this process."""
        return bytes_held(self.owned.values(), optimizer)


def build_parallel(objective: Objective, parameters: Mapping, sharding: int | None):
    """`Replicated` or, with a stage of sharding, `Sharding` of the trainable parameters."""
    if sharding is None or distributed.world_size() == 1:
        return Replicated(objective, parameters)
    return Sharding(objective, parameters, sharding)
