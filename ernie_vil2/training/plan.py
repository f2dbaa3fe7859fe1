"""How many records go into a batch and a step."""

from __future__ import annotations

from dataclasses import dataclass

from ernie_vil2 import distributed
from ernie_vil2.config.load import Config
from ernie_vil2.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Records of a batch and batches of a step, on each process.

    Attributes:
        rows: records of a process in a global batch.
        micro: records that go through the towers at a time, at most `rows`.
        merge: global batches whose gradients make one optimizer step.
    """

    rows: int
    micro: int
    merge: int

    @classmethod
    def of(cls, config: Config) -> Plan:
        """That of a run; UserError where its global batch cannot be shared out evenly."""
        rows = _rows(config)
        micro = min(config.DataLoader.Train.micro_batch_size or rows, rows)
        return cls(rows, micro, config.Distributed.gradient_merge)

    @property
    def records(self) -> int:
        """Of a process, in a step."""
        return self.rows * self.merge


def _rows(config: Config) -> int:
    loader, world = config.DataLoader.Train, distributed.world_size()
    if loader.global_batch_size is None:
        return loader.batch_size
    if loader.global_batch_size % world:
        raise UserError(
            f"DataLoader.Train.global_batch_size is {loader.global_batch_size}, which {world} "
            f"processes cannot share out evenly: expected a multiple of {world}"
        )
    return loader.global_batch_size // world
