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
        parts: equal parts of `rows` that are computed as if each were another process's.
    """

    rows: int
    micro: int
    merge: int
    parts: int = 1

    @classmethod
    def of(cls, config: Config) -> Plan:
        """That of a run; UserError where its global batch cannot be shared out evenly."""
        rows = _rows(config)
        parts = _parts(config, rows)
        micro = min(config.DataLoader.Train.micro_batch_size or rows, rows // parts)
        return cls(rows, micro, config.Distributed.gradient_merge, parts)

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


def _parts(config: Config, rows: int) -> int:
    world = distributed.world_size()
    if not config.Distributed.as_two or world == 2:
        return 1
    if world > 2:
        raise UserError(
            f"Distributed.as_two is true, and {world} processes train: expected one or two"
        )
    if rows % 2:
        raise UserError(
            f"Distributed.as_two is true, and a batch has {rows} records: expected an even number"
        )
    return 2
