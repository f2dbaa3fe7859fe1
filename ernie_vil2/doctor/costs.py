"""What a training step moves and holds on each process, by formula: the tables of docs/scaling.md.

    python -m ernie_vil2.doctor.costs -c configs/base.yaml [-o AMP.level=O2 ...]

Nothing here is measured. Sizes are in bytes, and 1 MB is 10^6 of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from ernie_vil2 import cli
from ernie_vil2.config.load import Config, load_config
from ernie_vil2.doctor.towers import Transformer, image_tower, text_tower
from ernie_vil2.views import SOURCE_OF

PROCESSES = (8, 64, 256, 512, 1024)
NODE = 8  # GPUs in one, which share a model where sharding stays inside
GLOBAL_BATCHES = (8192, 16384, 32768, 65536)
_CHUNK = 4096  # assumed for the table where Loss.chunk is null


@dataclass(frozen=True)
class Costs:
    """Bytes per process and step of one configuration, whose towers both learn."""

    towers: list[Transformer]
    other_tensors: list[int]  # projections, temperature
    embed_dim: int
    pairs: int
    sources: int  # of ids that the loss looks at
    chunk: int
    level: str  # AMP's
    ema: bool

    @classmethod
    def of(cls, config: Config) -> Costs:
        """Raises UserError for an image tower that is no CLIP_vit_*: only their sizes are known."""
        image, text = image_tower(config), text_tower(config)
        dim, views = config.Arch.embed_dim, [*config.Views.image, *config.Views.text]
        return cls(
            towers=[image, text],
            other_tensors=[1] + ([image.width * dim, text.width * dim] if dim else []),
            embed_dim=dim or image.width,
            pairs=sum(pair.weight > 0 for pair in config.Loss.pairs),
            sources=len({SOURCE_OF[v] for v in views}) * config.Loss.multi_positive,
            chunk=config.Loss.chunk or _CHUNK,
            level=config.AMP.level,
            ema=config.EMA.decay is not None,
        )

    @property
    def tensors(self) -> list[int]:
        return [n for tower in self.towers for n in tower.tensors] + self.other_tensors

    @property
    def parameters(self) -> int:
        return sum(self.tensors)

    @property
    def _width(self) -> int:
        """Bytes of a weight; its gradient has 4."""
        return 2 if self.level == "O2" else 4

    @property
    def _optimizer_width(self) -> int:
        """Bytes of a weight's optimizer state: two moments, float32 master, average."""
        return 8 + 4 * (self.level == "O2") + 4 * self.ema

    # -- moved -------------------------------------------------------------------------------------

    def embeddings(self, rows: int) -> float:
        """float32, of all views."""
        return rows * sum(tower.views for tower in self.towers) * self.embed_dim * 4

    def gather(self, processes: int, global_batch: int) -> float:
        """Sent in the gather of all views' embeddings, and again in its backward (NCCL)."""
        return (processes - 1) / processes * self.embeddings(global_batch)

    def ring(self, processes: int, global_batch: int) -> float:
        """Sent with Loss.ring: a block with ids and validity (int64) twice, its gradient once."""
        rows = global_batch // processes
        keys = 8 * (self.sources + 1) * rows
        return (processes - 1) * (3 * self.embeddings(rows) + 2 * keys)

    def gradients(self, processes: int) -> float:
        """Sent by a ring all-reduce of all gradients."""
        return 2 * (processes - 1) / processes * self.parameters * 4

    def sharded(self, stage: int) -> float:
        """Sent at most, for gradients to their owners and weights back: once, in stage 3 twice."""
        return self.parameters * (4 + (1 if stage < 3 else 2) * self._width)

    def between_replicas(self, models: int, degree: int) -> float:
        """Sent by an owner besides, where so many models are each shared by `degree` processes."""
        return 2 * (models - 1) / models * self._largest_share(degree) * 4

    def buckets(self, processes: int) -> int:
        """Collectives that send all weights to the others."""
        from ernie_vil2.distributed.buckets import BYTES, fill
        from ernie_vil2.distributed.sharded import assign_owners

        sizes = {str(i): n for i, n in enumerate(self.tensors)}
        owners = assign_owners(sizes, processes)
        return len(fill({name: n * self._width for name, n in sizes.items()}, owners, BYTES))

    # -- held --------------------------------------------------------------------------------------

    def state(self, processes: int, stage: int | None = None) -> float:
        """Weights, gradients and optimizer state on the process that holds most."""
        everything = self.parameters
        share = self._largest_share(processes) if stage else everything
        weights = share if stage == 3 else everything
        gradients = share if stage in (2, 3) else everything
        copies = 2 * everything if self.level == "O1" else 0  # half ones, until the backward
        held = weights * self._width + gradients * 4 + share * self._optimizer_width
        return held + copies

    def _largest_share(self, processes: int) -> int:
        from ernie_vil2.distributed.sharded import assign_owners  # imports paddle

        sizes = {str(i): n for i, n in enumerate(self.tensors)}
        shares = [0] * processes
        for name, owner in assign_owners(sizes, processes).items():
            shares[owner] += sizes[name]
        return max(shares)

    def travelling(self, rows: int) -> float:
        """With Loss.ring: own rows, a block, the next; four gradients (see docs/scaling.md)."""
        return 7 * self.embeddings(rows)

    def plain_logits(self, rows: int, columns: int) -> float:
        """Kept for the backward: float32 logits and a bool mask a direction, a pair's targets."""
        return ((4 + 1) * 2 + 1) * self.pairs * rows * columns

    def chunked_logits(self, rows: int, columns: int) -> float:
        """One float32 block of logits at a time, and as much again for temporaries."""
        return 2 * 4 * rows * min(self.chunk, columns)

    def activations(self, rows: int) -> float:
        """Kept by both towers' blocks for the backward; by as many rows as go through at a time."""
        return rows * sum(t.layers * t.block_activations(self.level) for t in self.towers)

    def recomputed_activations(self, rows: int) -> float:
        """The same with recompute in both towers: each block's input, and one block's insides."""
        inputs = sum(t.layers * t.block_input(self.level) for t in self.towers)
        return rows * (inputs + max(t.block_activations(self.level) for t in self.towers))

    # -- tables ------------------------------------------------------------------------------------

    def by_processes(self, processes: Iterable[int] = PROCESSES) -> list[list[str]]:
        """Rows: processes; moved by all-reduce, sharding 1 or 2, 3; state without and with 1, 2, 3.

        A dash where sharding is refused: there are more processes than tensors.
        """
        rows = []
        for world in processes:
            row = [f"{world:,}", _size(self.gradients(world))]
            if world > len(self.tensors):
                rows.append([*row, "-", "-", _size(self.state(world)), "-", "-", "-"])
                continue
            row += [_size(self.sharded(2)), _size(self.sharded(3))]
            rows.append(row + [_size(self.state(world, stage)) for stage in (None, 1, 2, 3)])
        return rows

    def by_nodes(self, processes: Iterable[int] = PROCESSES) -> list[list[str]]:
        """Rows: processes, models; moved inside a node and between; state in stages 1, 2, 3."""
        rows = []
        for models in (world // NODE for world in processes if world > NODE):
            moved = (self.sharded(2), self.between_replicas(models, NODE))
            held = (self.state(NODE, stage) for stage in (1, 2, 3))
            sizes = [_size(n) for n in (*moved, *held)]
            rows.append([f"{models * NODE:,}", f"{models} x {NODE}", *sizes])
        return rows

    def by_batch(
        self, batches: Iterable[int] = GLOBAL_BATCHES, processes: Iterable[int] = PROCESSES
    ) -> list[list[str]]:
        """Rows: global batch, processes, local batch; moved by gather, ring; embeddings held after
        a gather, in a ring; logits plain, chunked; activations, with recompute."""
        rows = []
        for batch in batches:
            for world in processes:
                local = batch // world
                sizes = (
                    self.gather(world, batch),
                    self.ring(world, batch),
                    2 * self.embeddings(batch),  # and their gradients
                    self.travelling(local),
                    self.plain_logits(local, batch),
                    self.chunked_logits(local, batch),
                    self.activations(local),
                    self.recomputed_activations(local),
                )
                rows.append([f"{n:,}" for n in (batch, world, local)] + [_size(n) for n in sizes])
        return rows


def _size(count: float) -> str:
    """Three significant digits: 0.61 MB, 101 MB, 1.63 GB."""
    value, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {unit}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list | None = None) -> None:
    parser: argparse.ArgumentParser = cli.parser(
        "What a training step moves and holds on each process, by formula (docs/scaling.md)."
    )
    options = parser.parse_args(argv)
    costs = Costs.of(load_config(options.config, options.override))
    print(f"{costs.parameters:,} parameters in {len(costs.tensors)} tensors\n")
    ways = ["replicated", "sharding 1 or 2", "sharding 3"]
    head = ["GPUs", *(f"moves, {way}" for way in ways), "state, replicated"]
    head += [f"state, sharding {stage}" for stage in (1, 2, 3)]
    print(_table(head, costs.by_processes()) + "\n")
    head = ["GPUs", "models x sharding_degree", "moves inside a node", "moves between nodes"]
    head += [f"state, sharding {stage}" for stage in (1, 2, 3)]
    print(_table(head, costs.by_nodes()) + "\n")
    chunked = f"logits, chunk {costs.chunk:,}"
    head = ["global batch", "GPUs", "local batch", "gather, and again backward"]
    head += ["ring, both ways", "embeddings, gathered", "in a ring"]
    head += ["logits, plain", chunked, "activations", "with recompute"]
    print(_table(head, costs.by_batch()))


if __name__ == "__main__":
    sys.exit(cli.run(main))
