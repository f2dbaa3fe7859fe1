"""How the processes of a run share the training of one layer, in one of three ways.

`Replicated` keeps all of the model in each process; `Sharded` gives each a share of the optimizer's
state, of the gradients and of the weights; `PaddleSharded` does so by Paddle's own engine, but for
the weights. The trainer knows what all do, which stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy.typing as npt
import paddle
from paddle import nn

from ernie_vil2.distributed import ranks
from ernie_vil2.distributed.masters import Masters
from ernie_vil2.distributed.replicated import Replicated
from ernie_vil2.distributed.sharded import Sharded


class Parallel(Protocol):
    """Shares the training of a layer, the objective, among all processes.

    A step, with any number of backwards, takes the mean over processes of their summed gradients:

        with parallel.no_sync():               # all backwards but the last
            parallel(*batch)["loss"].backward()
        parallel(*batch)["loss"].backward()
        parallel.reduce_gradients()            # now owners have the gradients
        parallel.unscale(scaler, optimizer)    # where there is a loss scale
        norm = parallel.clip_gradients(1.0)
        optimizer.step()                       # built on `parallel.owned`
        optimizer.clear_grad(set_to_zero=False)
        parallel.publish()

    Every method but `memory` is collective: all processes call it, and run the same forwards and
    backwards in the same order. Alone, a process owns everything and none of them waits.

    Attributes:
        objective: the layer.
        owned: name -> trainable parameter, those that this process's optimizer steps; of a
            half-precision one its float32 master.
        masters: name -> what has a parameter's gradient, of all parameters that learn.
    """

    objective: nn.Layer
    owned: Mapping[str, paddle.Tensor]
    masters: Masters

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The objective's forward; its backward is the last of this step, unless in `no_sync`."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Inside, a backward adds to this process's own gradients."""

    def reduce_gradients(self) -> None:
        """Give owners the mean over processes of the gradients, after the last backward.

        A parameter without a gradient must be without one on all processes.
        """

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer: paddle.optimizer.Optimizer) -> None:
        """`scaler.unscale_`, after which all processes agree whether a gradient overflowed."""

    def clip_gradients(self, max_norm: float | None) -> paddle.Tensor:
        """Scale all gradients so that their joint L2 norm is at most `max_norm`.

        Args:
            max_norm: None only measures.

        Returns:
            The norm before, a float32 scalar, equal on all processes; not finite on any where one
            gradient is not.
        """

    def publish(self) -> None:
        """Send what owners changed in their weights to the others.

        Call it after each optimizer step, and after values were put in place otherwise, as for an
        evaluation of averages. Half-precision weights are rounded from their masters here.
        """

    def whole(self) -> AbstractContextManager[None]:
        """Inside, this process has all weights: for evaluation, export, and loading.

        Processes may run different numbers of forwards there. Assign the same to parameters on all
        of them.
        """

    def gather(
        self, tensors: Mapping[str, paddle.Tensor]
    ) -> Mapping[str, paddle.Tensor | npt.NDArray[Any]]:
        """All processes' `tensors` on rank 0, for checkpoints; what the others get is of no use.

        Args:
            tensors: of `owned`, or averages and accumulators of these.
        """

    def memory(self, optimizer: paddle.optimizer.Optimizer | None = None) -> dict[str, int]:
        """Bytes that this process holds now, as `memory.bytes_held` names them."""


def build_parallel(
    objective: nn.Layer,
    parameters: Mapping[str, paddle.Tensor],
    sharding: int | None,
    originals: Mapping[str, paddle.Tensor] | None = None,
    engine: str = "ours",
) -> Parallel:
    """`Replicated`, or a sharded one where there is a stage of it and more than one process.

    Args:
        objective: the layer to train; half-precision weights (AMP O2) are made before.
        parameters: name -> trainable parameter of `objective`, all of them, alike on all processes.
        sharding: the stage, 1, 2 or 3, or None.
        originals: float32 values of the half-precision ones among the parameters.
        engine: of the sharding, ours or paddle; paddle takes no half-precision parameters.
    """
    if sharding is None or ranks.world_size() == 1:
        return Replicated(objective, parameters, originals)
    if engine == "paddle":
        # costs a second, and loads what only a GPU's run needs
        from ernie_vil2.distributed.paddle_sharded import PaddleSharded

        return PaddleSharded(objective, parameters)
    return Sharded(objective, parameters, sharding, originals)
