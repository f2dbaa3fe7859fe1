"""Ranks, and the collectives the project needs.

Every helper works without a launch, as rank 0 of 1.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol, TypeVar

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.autograd import PyLayer
from paddle.base import core
from paddle.distributed import fleet

_Value = TypeVar("_Value")


class Task(Protocol):
    """A collective that is under way."""

    def wait(self) -> object:
        """Return when it is done."""


def on_gpu() -> bool:
    """Whether this process computes on a GPU."""
    return paddle.get_device().startswith("gpu")


def rank() -> int:
    """This process among all, from 0."""
    return dist.get_rank()


def world_size() -> int:
    """How many processes train together; 1 without a launch."""
    return dist.get_world_size()


def is_main() -> bool:
    """True on the one process that writes logs and checkpoints."""
    return rank() == 0


def wrap(layer: nn.Layer) -> nn.Layer:
    """`layer` with its gradients averaged over ranks after each backward."""
    return fleet.distributed_model(layer) if world_size() > 1 else layer


def all_gather(x: paddle.Tensor) -> paddle.Tensor:
    """Concatenate every rank's [B, ...] along the first axis, in rank order; no gradient.

    Every rank must bring the same shape and dtype.
    """
    if world_size() == 1:
        return x
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, x.detach())
    return paddle.concat(parts)  # W x [B, ...] -> [WB, ...]


def reduce_scatter(x: paddle.Tensor) -> paddle.Tensor:
    """Sum every rank's [WB, ...] and give each its own [B, ...]; no gradient."""
    if world_size() == 1:
        return x
    rows = x.shape[0] // world_size()
    if on_gpu():
        own = paddle.empty([rows, *x.shape[1:]], dtype=x.dtype)
        dist.reduce_scatter(own, x.contiguous())
        return own
    total = x.clone()  # gloo has no reduce-scatter, so all ranks get the sum
    dist.all_reduce(total)
    return total[rank() * rows : (rank() + 1) * rows]


def reduce_(x: paddle.Tensor, to: int, group: Any = None) -> None:
    """Sum `x` over ranks, of a group or of all, in place on `to`; the others' is then undefined."""
    if world_size() > 1:
        dist.reduce(x, dst=to, group=group)


def all_reduce_(x: paddle.Tensor, group: Any = None) -> None:
    """Sum `x` over ranks, in place on all; over those of Paddle's group `group`, or over all."""
    if world_size() > 1:
        dist.all_reduce(x, group=group)


def broadcast_(x: paddle.Tensor, source: int, group: Any = None) -> None:
    """Overwrite `x` on every rank, of a group or of all, with rank `source`'s."""
    if world_size() > 1:
        dist.broadcast(x, src=source, group=group)


def start_reduce(x: paddle.Tensor, to: int, group: Any = None) -> Task:
    """Begin `reduce_`; neither read nor free `x` before wait() of what is returned.

    Among all or those of a group; needs more than one process.
    """
    return dist.reduce(x, dst=to, group=group, sync_op=False)


def start_all_reduce(x: paddle.Tensor) -> Task:
    """Begin `all_reduce_`; neither read nor free `x` before wait() of what is returned.

    Needs more than one process.
    """
    return dist.all_reduce(x, sync_op=False)


def start_broadcast(x: paddle.Tensor, source: int, group: Any = None) -> Task:
    """Begin `broadcast_`; neither read nor free `x` before wait() of what is returned.

    Among all or those of a group; needs more than one process.
    """
    return dist.broadcast(x, src=source, group=group, sync_op=False)


class _GatherWithGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        ctx.rows = x.shape[0]
        return all_gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        # Every rank's loss reads these rows, so their gradients are summed over ranks before
        # each takes its own rows back.
        return reduce_scatter(gradient)


def all_gather_with_gradient(x: paddle.Tensor) -> paddle.Tensor:
    """`all_gather` whose backward gives each rank the gradients that all ranks have for its rows.

    With a loss that is the mean over a rank's own rows, and gradients of parameters averaged over
    ranks (`wrap`), the result is the gradient of the mean over all rows.
    """
    return x if world_size() == 1 else _GatherWithGradient.apply(x)


_meetings = itertools.count()


def meet() -> None:
    """Wait for all ranks, through the key-value store.

    Over gloo a collective fails when a rank comes 30 s after another, as after an evaluation's
    scoring; Paddle has no setting for that. This waits for 15 minutes. NCCL waits by itself.
    """
    if world_size() == 1 or on_gpu():
        return
    store = core.create_or_get_global_tcp_store()
    key = f"ernie_vil2/meet/{next(_meetings)}"
    # a request or two of each process, which all wait for the last one's
    if store.add(f"{key}/arrived", 1) == world_size():
        store.set(f"{key}/all", "here")
    store.get(f"{key}/all")  # waits for the key


def all_gather_objects(value: _Value) -> list[_Value]:
    """Every rank's picklable `value`, in rank order; ranks may come minutes apart."""
    if world_size() == 1:
        return [value]
    meet()
    values: list[_Value] = []
    dist.all_gather_object(values, value)
    return values


def mean(values: list[float]) -> list[float]:
    """Floats averaged over ranks."""
    if world_size() == 1:
        return values
    total = paddle.to_tensor(values, dtype="float64")
    dist.all_reduce(total)
    return (total / world_size()).tolist()


def any_rank(flag: bool) -> bool:
    """True on every rank as soon as `flag` is true on one."""
    if world_size() == 1:
        return flag
    total = paddle.to_tensor([int(flag)], dtype="int64")
    dist.all_reduce(total)
    return bool(total.item() > 0)
