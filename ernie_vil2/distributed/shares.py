"""What all ways to share a model out have: whole tensors, each of which one process owns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import paddle
from paddle import nn

from ernie_vil2.distributed import groups, ranks
from ernie_vil2.distributed.clip import clip_gradients
from ernie_vil2.distributed.masters import Masters
from ernie_vil2.errors import UserError


class Shares:
    """The part of a `Parallel` in which processes that own shares agree on norms and checkpoints.

    Args:
        objective: the layer to train.
        parameters: name -> trainable parameter of `objective`, all of them, alike on all ranks.
        originals: as `Masters` takes them.

    Attributes:
        group: the processes that share one model.
        replicas: those that own the same share as this one.
        owners: name -> rank of the group; see `share_out`.
        masters: name -> what is stepped, of all parameters.
        owned: those of this process.

    Raises:
        UserError: fewer tensors than processes of a group.
    """

    def __init__(
        self,
        objective: nn.Layer,
        parameters: Mapping[str, paddle.Tensor],
        originals: Mapping[str, paddle.Tensor] | None = None,
    ):
        self.group, self.replicas = groups.sharding(), groups.replicas()
        if len(self.group.ranks) > len(parameters):
            raise UserError(
                f"sharding over {len(self.group.ranks)} processes, but only {len(parameters)} "
                "tensors to share: train without sharding, or with a smaller "
                "Distributed.sharding_degree"
            )
        self.objective, self.parameters = objective, dict(parameters)
        self.masters = Masters(self.parameters, originals or {})
        self.owners: Mapping[str, int] = {}
        self.owned: Mapping[str, paddle.Tensor] = {}

    def share_out(self, places: Mapping[str, int]) -> None:
        """Let each parameter be owned by the process in its place of the group."""
        self.owners = {name: self.group.ranks[place] for name, place in places.items()}
        self.owned = {n: p for n, p in self.masters.items() if self.owners[n] == ranks.rank()}
        self.masters.keep(self.owned.keys())

    def equalize_rest(self) -> None:
        """Give what does not learn, frozen parameters and buffers, rank 0's values."""
        trained = {id(p) for p in self.parameters.values()}
        for tensor in [*self.objective.parameters(), *self.objective.buffers()]:
            if id(tensor) not in trained:
                ranks.broadcast_(tensor, 0)

    def _add_up(self, total: paddle.Tensor) -> None:
        """Sum a number in place over the shares of one model, equal on all processes after."""
        ranks.all_reduce_(total)
        total.scale_(1 / len(self.replicas.ranks))  # which all bring the same

    def clip_gradients(self, max_norm: float | None) -> paddle.Tensor:
        return clip_gradients(self.owned.values(), max_norm, self._add_up)

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer: paddle.optimizer.Optimizer) -> None:
        scaler.unscale_(optimizer)
        if scaler.is_enable():
            found = ranks.any_rank(bool(scaler._found_inf))
            scaler._found_inf = paddle.to_tensor([found])

    def gather(self, tensors: Mapping[str, paddle.Tensor]) -> dict[str, npt.NDArray[Any]]:
        # As arrays, bfloat16 as float32, so that a device holds one of the others' at a time.
        arrays = {}
        kinds = {name: (list(t.shape), str(t.dtype).split(".")[-1]) for name, t in tensors.items()}
        everyones = ranks.all_gather_objects(kinds)
        if 0 not in self.group.ranks:
            return {}
        for owner in self.group.ranks:
            for name, (shape, dtype) in everyones[owner].items():
                if owner != ranks.rank():
                    tensor = paddle.empty(shape, dtype)
                else:  # optimizers keep some scalars on the host, where NCCL does not reach
                    tensor = tensors[name].cuda() if ranks.on_gpu() else tensors[name]
                if owner != 0:
                    ranks.broadcast_(tensor, owner, self.group.handle)
                if ranks.is_main():
                    half = dtype == "bfloat16"
                    arrays[name] = (tensor.astype("float32") if half else tensor).numpy()
        return arrays
