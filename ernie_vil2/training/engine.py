"""Who shares out a model among processes: this project's code or Paddle's."""

from __future__ import annotations

from ernie_vil2 import distributed
from ernie_vil2.config.load import Config
from ernie_vil2.errors import UserError
from ernie_vil2.training.plan import Plan


def sharding_engine(config: Config) -> str:
    """`ours` or `paddle`, as `Distributed.engine` says or, where it says auto, as fits.

    Raises:
        UserError: it says paddle, and Paddle's engine cannot do what the configuration asks for.
    """
    wanted = config.Distributed.engine
    if config.Distributed.sharding is None or wanted == "ours":
        return "ours"
    obstacle = _obstacle(config)
    if wanted == "auto":
        return "ours" if obstacle else "paddle"
    if obstacle:
        raise UserError(f"Distributed.engine is paddle, but {obstacle}: set it to ours or auto")
    return "paddle"


def _obstacle(config: Config) -> str | None:
    """The first thing that Paddle's engine cannot do, in words."""
    plan = Plan.of(config)
    if config.Distributed.sharding == 3:
        return "its stage 3 cuts tensors into slices, which no checkpoint here holds"
    if plan.micro < plan.rows:
        return "it would lose gradients of DataLoader.Train.micro_batch_size"
    if config.AMP.level == "O2":
        return "AMP.level is O2, whose float32 gradients it does not know"
    if not distributed.on_gpu():
        return "it needs a GPU, and this run is on the CPU"
    return None
