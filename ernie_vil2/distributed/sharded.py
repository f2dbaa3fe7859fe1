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

import numpy.typing as npt
import paddle
from paddle import nn

from ernie_vil2.distributed import buckets, ranks
from ernie_vil2.distributed.clip import clip_gradients
from ernie_vil2.distributed.masters import Masters
from ernie_vil2.distributed.memory import bytes_held, numbers
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


class Sharded:
    """A `Parallel` whose processes each own a share of the parameters, and step these alone.

    Weights are made equal at construction: parameters as their owners have them, frozen ones and
    buffers as rank 0. Later changes of frozen ones and buffers stay local, as BatchNorm's
    statistics do under data parallelism.

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
        world = ranks.world_size()
        if world > len(parameters):
            raise UserError(
                f"sharding over {world} processes, but only {len(parameters)} tensors to share: "
                "train without sharding"
            )
        self.objective, self.stage = objective, stage
        self.parameters = dict(parameters)
        sizes = {name: numbers(p) for name, p in self.parameters.items()}
        self.owners = assign_owners(sizes, world)
        self.masters = Masters(self.parameters, originals or {})
        self.owned: Mapping[str, paddle.Tensor] = {
            name: p for name, p in self.masters.items() if self._is_mine(name)
        }
        self.masters.keep(self.owned.keys())
        self._resident = self.parameters  # whose values every rank keeps
        self._units: list[Unit] = []
        self._bucket = bucket
        total = 4 * sum(sizes.values())  # bytes of all gradients
        self._reductions = buckets.Reductions(self.masters, self.owners, bucket, total)
        self._sync = True
        self._reduce_early = False
        if world == 1:
            return
        trained = {id(p) for p in self.parameters.values()}
        for tensor in [*objective.parameters(), *objective.buffers()]:
            if id(tensor) not in trained:
                ranks.broadcast_(tensor, 0)
        self._broadcast(self.parameters)
        if stage == 3:
            self._units = find_units(objective, self.parameters, self.owners, bucket)
            in_units = {name for unit in self._units for name in unit.parameters}
            self._resident = {n: p for n, p in self.parameters.items() if n not in in_units}
        if stage >= 2:
            for name, parameter in self.parameters.items():
                parameter._register_backward_hook(partial(self._on_gradient, name))
        for unit in self._units:
            unit.attach()

    def _is_mine(self, name: str) -> bool:
        return self.owners[name] == ranks.rank()

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

    def clip_gradients(self, max_norm: float | None) -> paddle.Tensor:
        return clip_gradients(self.owned.values(), max_norm, ranks.all_reduce_)

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer: paddle.optimizer.Optimizer) -> None:
        scaler.unscale_(optimizer)
        if scaler.is_enable():
            found = ranks.any_rank(bool(scaler._found_inf))
            scaler._found_inf = paddle.to_tensor([found])

    # -- weights -----------------------------------------------------------------------------------

    def publish(self) -> None:
        self.masters.round()
        self._release_units()  # in stage 3 the others fetch these when they need them
        self._broadcast(self._resident)

    def _broadcast(self, parameters: Mapping[str, paddle.Tensor]) -> None:
        if ranks.world_size() > 1:
            buckets.broadcast(parameters, self.owners, self._bucket)

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

    def gather(self, tensors: Mapping[str, paddle.Tensor]) -> dict[str, npt.NDArray[Any]]:
        # As arrays, bfloat16 as float32, so that a device holds one of the others' at a time.
        arrays = {}
        kinds = {name: (list(t.shape), str(t.dtype).split(".")[-1]) for name, t in tensors.items()}
        for owner, theirs in enumerate(ranks.all_gather_objects(kinds)):
            for name, (shape, dtype) in theirs.items():
                if owner != ranks.rank():
                    tensor = paddle.empty(shape, dtype)
                else:  # optimizers keep some scalars on the host, where NCCL does not reach
                    tensor = tensors[name].cuda() if ranks.on_gpu() else tensors[name]
                if owner != 0:
                    ranks.broadcast_(tensor, owner)
                if ranks.is_main():
                    half = dtype == "bfloat16"
                    arrays[name] = (tensor.astype("float32") if half else tensor).numpy()
        return arrays

    def memory(self, optimizer: paddle.optimizer.Optimizer | None = None) -> dict[str, int]:
        # weights that are fetched for use count
        held = bytes_held(self.parameters.values(), optimizer, self._reductions.under_way())
        return self.masters.count_in(held)
