"""Sharded data parallelism: each rank keeps optimizer state, gradients, weights of its own share.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054) with whole tensors: every trainable parameter is
owned by one rank. So Lamb's norms, parameter groups, clipping and names in checkpoints stay what
they are in one process, and the same code runs over NCCL and gloo.

    stage 1   the optimizer (and EMA) exist on owners only
    stage 2   and gradients leave the other ranks while the last backward still runs
    stage 3   and so do weights, outside of the forward and backward of their unit
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import paddle
from paddle import nn

from ernie_vil2.distributed import buckets, ranks
from ernie_vil2.distributed.memory import bytes_held, numbers
from ernie_vil2.distributed.shares import Shares
from ernie_vil2.distributed.units import Unit, find_units
from ernie_vil2.errors import UserError


def assign_owners(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """name -> rank: the largest first, each to the rank that has least; equal on all ranks."""
    load = [0] * world_size
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = load.index(min(load))
        owners[name] = owner
        load[owner] += sizes[name]
    return owners


class Sharded(Shares):
    """A `Parallel` whose processes each own a share of the parameters, and step these alone.

    Where fleet has several sharding groups, each has a whole model, shared out among its processes,
    and gradients are averaged over all.

    Weights are made equal at construction: parameters as their owners in the first group have them,
    frozen ones and buffers as rank 0. Later changes of frozen ones and buffers stay local, as
    BatchNorm's statistics do under data parallelism.

    In stages 2 and 3 the backward after a call, unless it runs in `no_sync`, must be the last to
    reach its parameters in this step: gradients go to their owners as soon as it has them. In stage
    3 all processes run the same forwards in evaluation too, unless these run inside `whole`, and
    what is assigned there to parameters of others is lost.

    Args:
        objective: the layer to train; half-precision weights (AMP O2) are made before.
        parameters: name -> trainable parameter of `objective`, all of them, alike on all ranks.
        stage: 1, 2 or 3.
        originals: as `Masters` takes them.
        bucket: bytes of gradients or weights of one owner that travel together; 0: each by itself.

    Raises:
        UserError: another stage, or fewer tensors than processes.
    """

    def __init__(
        self,
        objective: nn.Layer,
        parameters: Mapping[str, paddle.Tensor],
        stage: int,
        originals: Mapping[str, paddle.Tensor] | None = None,
        bucket: int = buckets.BYTES,
    ):
        if stage not in (1, 2, 3):
            raise UserError(f"sharding stage {stage!r}: expected 1, 2 or 3")
        super().__init__(objective, parameters, originals)
        self.stage = stage
        world = len(self.group.ranks)
        sizes = {name: numbers(p) for name, p in self.parameters.items()}
        self.share_out(assign_owners(sizes, world))
        self._resident = self.parameters  # whose values every rank keeps
        self._units: list[Unit] = []
        self._bucket = bucket
        total = 4 * sum(sizes.values())  # bytes of all gradients
        self._reductions = buckets.Reductions(
            self.masters, self.owners, self.group, self.replicas, bucket, total
        )
        self._sync = True
        self._reduce_early = False
        if world == 1:
            return
        self.equalize_rest()
        first = dict.fromkeys(self.owned, self.replicas.ranks[0])
        if len(self.replicas.ranks) > 1:
            buckets.broadcast(self.owned, first, self.replicas, bucket)
            self.masters.round()
        self._broadcast(self.parameters)
        if stage == 3:
            self._units = find_units(objective, self.parameters, self.owners, self.group, bucket)
            in_units = {name for unit in self._units for name in unit.parameters}
            self._resident = {n: p for n, p in self.parameters.items() if n not in in_units}
        if stage >= 2:
            for name, parameter in self.parameters.items():
                parameter._register_backward_hook(partial(self._on_gradient, name))
        for unit in self._units:
            unit.attach()

    # -- gradients ---------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if paddle.is_grad_enabled():
            self._reduce_early = self._sync and ranks.world_size() > 1
        return self.objective(*inputs, **named)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self._sync = False
        try:
            yield
        finally:
            self._sync, self._reduce_early = True, False

    def _on_gradient(self, name: str, *_: object) -> None:
        if self._reduce_early:
            self._reductions.add(name)

    def reduce_gradients(self) -> None:
        if ranks.world_size() == 1:
            return
        self._reductions.finish()
        self._reduce_early = False
        self._release_units()  # whose backward left a parameter without gradient

    # -- weights -----------------------------------------------------------------------------------

    def publish(self) -> None:
        self.masters.round()
        self._release_units()  # in stage 3 the others fetch these when they need them
        self._broadcast(self._resident)

    def _broadcast(self, parameters: Mapping[str, paddle.Tensor]) -> None:
        if ranks.world_size() > 1:
            buckets.broadcast(parameters, self.owners, self.group, self._bucket)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        for unit in self._units:
            unit.fetch()
        try:
            yield
        finally:
            self._release_units()

    def _release_units(self) -> None:
        for unit in self._units:
            unit.release()

    def memory(self, optimizer: paddle.optimizer.Optimizer | None = None) -> dict[str, int]:
        # weights that are fetched for use count
        held = bytes_held(self.parameters.values(), optimizer, self._reductions.under_way())
        return self.masters.count_in(held)
