"""Sharded data parallelism by Paddle's own engine, that of `group_sharded_parallel`.

Paddle's levels "os" and "os_g", stages 1 and 2, are one implementation: gradients leave in the
backward, in one buffer an owner where they fit into it, and weights come back in one buffer an
owner. It gives whole tensors to processes as `Sharded` does, so the optimizer is this project's:
parameter groups, Lamb, clipping, averages and checkpoints stay what they are.

`group_sharded_parallel` itself would take an optimizer of all parameters; what it is made of is
used here, with one that never steps. Two of Paddle's are not used. `DygraphShardingOptimizer`
(stage 1) refuses parameter groups and sends a collective for each tensor. "p_g_os" (stage 3) cuts
tensors into slices, which get other names and shapes, and sums whole gradients on all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import paddle
from paddle import nn
from paddle.distributed import collective
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_optimizer_stage2 import (
    GroupShardedOptimizerStage2,
)
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage2 import GroupShardedStage2

from ernie_vil2.distributed.memory import bytes_held
from ernie_vil2.distributed.shares import Shares


class PaddleSharded(Shares):
    """A `Parallel` of stage 2 on Paddle's engine, on a GPU.

    Each backward sends its gradients, in `no_sync` too, and has to reach all parameters. So
    gradients from outside of a call, as micro-batches have them, would be lost: see
    `training.engine`.

    Args:
        objective: the layer to train.
        parameters: name -> trainable parameter of `objective`, all of them, alike on all ranks.
    """

    def __init__(self, objective: nn.Layer, parameters: Mapping[str, paddle.Tensor]):
        super().__init__(objective, parameters)
        group = self.group.handle or collective._get_global_group()
        replicas = self.replicas.handle if len(self.replicas.ranks) > 1 else None
        device = paddle.get_device().split(":")[0]
        tensors = list(self.parameters.values())
        self._engine = GroupShardedOptimizerStage2(
            params=tensors,
            optim=paddle.optimizer.AdamW(0.0, parameters=tensors),  # never steps
            group=group,
            dp_group=replicas,
            device=device,
        )
        self._layer = GroupShardedStage2(
            objective, self._engine, group=group, dp_group=replicas, device=device
        )
        places = self._engine.param2rank
        self.share_out({name: places[p.name] for name, p in self.parameters.items()})
        self.equalize_rest()
        self._stepped = False

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not paddle.is_grad_enabled():
            return self.objective(*inputs, **named)
        if self._stepped:
            self._begin_step()
        return self._layer(*inputs, **named)

    def _begin_step(self) -> None:
        """Make this process's gradients views of its buffers again, now empty."""
        self._stepped = False
        for storages in self._layer._grad_storages.values():
            if self._layer._rank in storages:
                own = storages[self._layer._rank]
                own.buffer.zero_()
                for parameter in own._params:
                    parameter.clear_gradient(False)
                own._array_grads()

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()  # owners add up what the backwards send them

    def reduce_gradients(self) -> None:
        self._layer._grad_scale()  # the backwards have summed
        self._layer._dp_allreduce()
        self._stepped = True

    def publish(self) -> None:
        self._engine._broadcast_params()

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def memory(self, optimizer: paddle.optimizer.Optimizer | None = None) -> dict[str, int]:
        return bytes_held(self.parameters.values(), optimizer)
