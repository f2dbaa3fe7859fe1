"""Which processes share out one model's state, and which hold the same share: fleet's groups.

Fleet's own order puts neighbours, the processes of a node, into one sharding group. With 2 x 4:

    sharding groups   0 1 2 3 | 4 5 6 7      each has a whole model
    replicas          0 4 | 1 5 | 2 6 | 3 7  each owns the same share
"""

from __future__ import annotations

from typing import Any, NamedTuple

import paddle.distributed as dist
from paddle.distributed import fleet
from paddle.distributed.fleet.utils.log_util import set_log_level

from ernie_vil2.distributed import ranks
from ernie_vil2.errors import UserError


class Group(NamedTuple):
    """Processes that act together.

    Attributes:
        ranks: of them among all, in order; this process is one of them.
        handle: Paddle's group; None: that of all.
    """

    ranks: tuple[int, ...]
    handle: Any = None


def everyone() -> Group:
    """All processes."""
    return Group(tuple(range(ranks.world_size())))


def sharding() -> Group:
    """Those that share out one model with this process: all, unless fleet was told otherwise."""
    hybrid = _hybrid()
    if hybrid is None:
        return everyone()
    group = hybrid.get_sharding_parallel_group()
    return Group(tuple(group.ranks), group)


def replicas() -> Group:
    """Those that own the same share as this process."""
    hybrid = _hybrid()
    if hybrid is None:
        return Group((ranks.rank(),))
    group = hybrid.get_data_parallel_group()
    return Group(tuple(group.ranks), group)


def _hybrid() -> Any:
    """Fleet's groups where there are several of each kind."""
    if ranks.world_size() == 1:
        return None
    hybrid = fleet.get_hybrid_communicate_group()
    # fleet's default, with one process in each sharding group, stands for all of them in one
    degree = hybrid.get_sharding_parallel_world_size()
    return hybrid if 1 < degree < ranks.world_size() else None


def degrees(
    sharding: int | None, dp_degree: int | None, sharding_degree: int | None, world_size: int
) -> tuple[int, int]:
    """How many models there are, and how many processes share each of them.

    Args:
        sharding: the stage, or None.
        dp_degree: as in the configuration; None and -1 follow from the other one, and without
            either all processes share one model, or none do where there is no stage.
        sharding_degree: likewise.

    Raises:
        UserError: they contradict one another or the number of processes.
    """
    models = None if dp_degree == -1 else dp_degree
    shares = None if sharding_degree == -1 else sharding_degree
    if sharding is None and shares not in (None, 1):
        raise UserError(
            f"Distributed.sharding_degree is {shares}, but Distributed.sharding is null: set it "
            "to 1, 2 or 3"
        )
    if sharding is None:
        shares = 1
    elif shares == 1 and world_size > 1:
        raise UserError(
            f"Distributed.sharding_degree is 1, which shares nothing out, but Distributed.sharding "
            f"is {sharding}: set that to null, or the degree to 2 or more"
        )
    if shares is None:
        shares = max(1, world_size // (models or 1))
    if models is None:
        models = max(1, world_size // shares)
    if models * shares != world_size:
        raise UserError(
            f"Distributed.dp_degree x sharding_degree is {models} x {shares}, but there are "
            f"{world_size} processes: make the product {world_size}, or leave one of them null"
        )
    return models, shares


def strategy(
    sharding: int | None, dp_degree: int | None, sharding_degree: int | None
) -> fleet.DistributedStrategy | None:
    """What fleet starts with, for `Distributed` of the configuration; before its start.

    None, fleet's default, unless there are several models that are each shared out.

    Raises:
        UserError: as `degrees`.
    """
    world_size = dist.ParallelEnv().world_size
    models, shares = degrees(sharding, dp_degree, sharding_degree, world_size)
    if 1 in (models, shares):
        return None
    set_log_level("WARNING")  # else Paddle tells that there is one
    found = fleet.DistributedStrategy()
    found.hybrid_configs = {
        "dp_degree": models,
        "mp_degree": 1,
        "pp_degree": 1,
        "sharding_degree": shares,
    }
    return found
