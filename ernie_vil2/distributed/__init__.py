"""Processes that train together: start-up, ranks, collectives, and two ways to share a model.

Nothing outside of this package imports paddle.distributed, and this package knows no model and no
loss: what it shares is any layer.
"""

from paddle.distributed.fleet.utils import recompute

from ernie_vil2.distributed.groups import strategy
from ernie_vil2.distributed.ranks import (
    all_gather,
    all_gather_objects,
    all_gather_with_gradient,
    all_reduce_,
    any_rank,
    broadcast_,
    is_main,
    mean,
    meet,
    on_gpu,
    rank,
    reduce_,
    reduce_scatter,
    start_broadcast,
    start_reduce,
    world_size,
    wrap,
)
from ernie_vil2.distributed.start import init, leave

__all__ = [
    "all_gather",
    "all_gather_objects",
    "all_gather_with_gradient",
    "all_reduce_",
    "any_rank",
    "broadcast_",
    "init",
    "is_main",
    "leave",
    "mean",
    "meet",
    "on_gpu",
    "rank",
    "recompute",
    "reduce_",
    "reduce_scatter",
    "start_broadcast",
    "start_reduce",
    "strategy",
    "world_size",
    "wrap",
]
