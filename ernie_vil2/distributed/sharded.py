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
import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from functools import partial

import numpy as np
import paddle
from paddle import nn

from ernie_vil2 import distributed
from ernie_vil2.distributed.units import Unit, find_units
from ernie_vil2.errors import UserError

_IN_FLIGHT = 16  # reductions under way at a time, each of which keeps its gradient alive


def assign_owners(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """name -> rank: the largest first, each to the rank that has least; equal on all ranks."""
    load = [0] * ranks
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = load.index(min(load))
        owners[name] = owner
        load[owner] += sizes[name]
    return owners


class Sharding:
    """Shares the training of `objective` among all ranks; alone, every method is a plain no-op.

    Weights are made equal at construction: parameters as their owners have them, frozen ones and
    buffers as rank 0. Later changes of frozen ones and buffers stay local, as BatchNorm's
    statistics do under data parallelism.

    A step, with any number of backwards; the mean over ranks of their summed gradients is taken:

        with sharding.no_sync():               # all backwards but the last
            sharding(*batch)["loss"].backward()
        sharding(*batch)["loss"].backward()
        sharding.reduce_gradients()            # now owners, and only they, have gradients
        norm = sharding.clip_gradients(1.0)
        optimizer.step()                       # built on `sharding.owned`
        optimizer.clear_grad()
        sharding.publish()

    Every method but `memory` is collective: all ranks call it, and run the same forwards and
    backwards in the same order; in stage 3 also in evaluation, unless it runs inside `whole`.

    Args:
        objective: the layer to train; half-precision weights (AMP O2) are made before.
        parameters: name -> trainable parameter of `objective`, all of them, alike on all ranks.
        stage: 1, 2 or 3.

    Raises:
        UserError: another stage, or fewer tensors than processes.
    """

    def __init__(self, objective: nn.Layer, parameters: Mapping[str, paddle.Tensor], stage: int):
        if stage not in (1, 2, 3):
            raise UserError(f"sharding stage {stage!r}: expected 1, 2 or 3")
        world = distributed.world_size()
        if world > len(parameters):
            raise UserError(
                f"sharding over {world} processes, but only {len(parameters)} tensors to share: "
                "train without sharding"
            )
        self.objective, self.stage = objective, stage
        self.parameters = dict(parameters)
        sizes = {name: _numbers(p) for name, p in self.parameters.items()}
        self.owners = assign_owners(sizes, world)
        self.owned = {n: p for n, p in self.parameters.items() if self._is_mine(n)}
        self._resident = self.parameters  # whose values every rank keeps
        self._units: list[Unit] = []
        self._reduced: set[str] = set()  # names, since the last reduce_gradients
        self._in_flight: deque = deque()  # (name, gradient, task)
        self._sync = True
        self._reduce_early = False
        if world == 1:
            return
        trained = {id(p) for p in self.parameters.values()}
        for tensor in [*objective.parameters(), *objective.buffers()]:
            if id(tensor) not in trained:
                distributed.broadcast_(tensor, 0)
        self._broadcast(self.parameters)
        if stage == 3:
            self._units = find_units(objective, self.parameters, self.owners)
            in_units = {name for unit in self._units for name in unit.parameters}
            self._resident = {n: p for n, p in self.parameters.items() if n not in in_units}
        if stage >= 2:
            for name, parameter in self.parameters.items():
                parameter._register_backward_hook(partial(self._on_gradient, name))
        for unit in self._units:
            unit.attach()

    def _is_mine(self, name: str) -> bool:
        return self.owners[name] == distributed.rank()

    # -- gradients ---------------------------------------------------------------------------------

    def __call__(self, *inputs, **named):
        """The objective's forward.

        Stages 2 and 3 send each gradient to its owner, and free it elsewhere, as soon as the
        backward after it has it. That must be the last to reach its parameters in this step; any
        other runs in `no_sync`, or without this call.
        """
        if paddle.is_grad_enabled():
            self._reduce_early = self._sync and distributed.world_size() > 1
        return self.objective(*inputs, **named)

    @contextlib.contextmanager
    def no_sync(self):
        """Inside, a backward adds to this process's own gradients."""
        self._sync = False
        try:
            yield
        finally:
            self._sync, self._reduce_early = True, False

    def _on_gradient(self, name: str, *_) -> None:
        if self._reduce_early:
            self._start_reduce(name)

    @paddle.no_grad()
    def _start_reduce(self, name: str) -> None:
        assert name not in self._reduced, f"{name} got gradients after its last backward"
        self._reduced.add(name)
        parameter, owner = self.parameters[name], self.owners[name]
        # Not in place, since the backward may hand the same storage on to others; divided before
        # the sum, since float16 overflows easily.
        gradient = parameter.grad / distributed.world_size()
        parameter.clear_gradient(False)
        self._in_flight.append((name, gradient, distributed.start_reduce(gradient, owner)))
        if len(self._in_flight) > _IN_FLIGHT:
            self._finish_oldest_reduce()

    def _finish_oldest_reduce(self) -> None:
        name, gradient, task = self._in_flight.popleft()
        task.wait()
        if self._is_mine(name):
            self.parameters[name].grad = gradient

    def reduce_gradients(self) -> None:
        """Give owners the mean over ranks of the gradients, and free the others' copies.

        A parameter without a gradient must be without one on all ranks.
        """
        if distributed.world_size() == 1:
            return
        for name, parameter in self.parameters.items():
            if name not in self._reduced and parameter.grad is not None:
                self._start_reduce(name)
        while self._in_flight:
            self._finish_oldest_reduce()
        self._reduced.clear()
        self._reduce_early = False
        self._release_units()  # whose backward left a parameter without gradient

    @paddle.no_grad()
    def clip_gradients(self, max_norm: float | None) -> paddle.Tensor:
        """Scale all gradients so that their joint L2 norm is at most max_norm.

        Returns the norm before, a float32 scalar, equal on all ranks; so it is not finite on any
        where one owner's gradient is not. max_norm: None only measures.
        """
        gradients = [p.grad for p in self.owned.values() if p.grad is not None]
        squares = [g.astype("float32").square().sum() for g in gradients]
        total = paddle.add_n(squares) if squares else paddle.zeros([])
        distributed.all_reduce_(total)
        norm = total.sqrt()
        if max_norm is not None:
            factor = (max_norm / (norm + 1e-6)).clip(max=1.0)  # as paddle's clip_grad_norm_
            for parameter in self.owned.values():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad * factor.astype(parameter.grad.dtype)
        return norm

    def unscale(self, scaler: paddle.amp.GradScaler, optimizer) -> None:
        """`scaler.unscale_`, after which all ranks agree whether a gradient overflowed."""
        scaler.unscale_(optimizer)
        if scaler.is_enable():
            found = distributed.any_rank(bool(scaler._found_inf))
            scaler._found_inf = paddle.to_tensor([found])

    # -- weights -----------------------------------------------------------------------------------

    def publish(self) -> None:
        """Send what owners changed in their weights to the other ranks.

        Call it after each optimizer step, and after values were put in place otherwise, as for an
        evaluation of averages. In stage 3 the others fetch most of it when they need it.
        """
        self._release_units()
        self._broadcast(self._resident)

    def _broadcast(self, parameters: Mapping[str, paddle.Tensor]) -> None:
        if distributed.world_size() > 1:
            tasks = [distributed.start_broadcast(p, self.owners[n]) for n, p in parameters.items()]
            for task in tasks:
                task.wait()

    @contextlib.contextmanager
    def whole(self):
        """Inside, every rank has all weights: for evaluation, export, and loading.

        Ranks may run different numbers of forwards there. What is assigned to parameters of others
        is lost in stage 3, so assign the same on all ranks.
        """
        for unit in self._units:
            unit.fetch()
        try:
            yield
        finally:
            self._release_units()

    def _release_units(self) -> None:
        for unit in self._units:
            unit.release()

    def gather(self, tensors: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
        """All ranks' `tensors` as arrays on rank 0, nothing on the others; bfloat16 as float32.

        For checkpoints: of `owned`, and of averages and accumulators of these. A device holds one
        of the others' tensors at a time.
        """
        arrays = {}
        kinds = {name: (list(t.shape), str(t.dtype).split(".")[-1]) for name, t in tensors.items()}
        for owner, theirs in enumerate(distributed.all_gather_objects(kinds)):
            for name, (shape, dtype) in theirs.items():
                if owner != distributed.rank():
                    tensor = paddle.empty(shape, dtype)
                else:  # optimizers keep some scalars on the host, where NCCL does not reach
                    tensor = tensors[name].cuda() if distributed.on_gpu() else tensors[name]
                if owner != 0:
                    distributed.broadcast_(tensor, owner)
                if distributed.is_main():
                    half = dtype == "bfloat16"
                    arrays[name] = (tensor.astype("float32") if half else tensor).numpy()
        return arrays

    def memory(self, optimizer=None) -> dict[str, int]:
        """`bytes_held` by this rank; weights that are fetched for use count."""
        in_flight = (gradient for _, gradient, _ in self._in_flight)
        return bytes_held(self.parameters.values(), optimizer, in_flight)


def bytes_held(parameters: Collection, optimizer=None, gradients: Iterable = ()) -> dict[str, int]:
    """Bytes of "parameters" and of the "gradients" and "optimizer" state that belong to them.

    gradients: those that their parameters have given away.
    """
    state = dict(optimizer.state_dict()) if optimizer else {}
    state.pop("LR_Scheduler", None)
    state.update({f"{n}|master": t for n, t in state.pop("master_weights", {}).items()})
    held = {
        "parameters": parameters,
        "gradients": [*(p.grad for p in parameters if p.grad is not None), *gradients],
        "optimizer": state.values(),
    }
    return {
        kind: sum(_numbers(t) * t.element_size() for t in tensors if t._is_initialized())
        for kind, tensors in held.items()
    }


def _numbers(tensor: paddle.Tensor) -> int:
    return math.prod(tensor.shape)
