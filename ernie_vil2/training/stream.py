"""The data of a run, in its order, and the seeds that go with it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ernie_vil2 import distributed
from ernie_vil2.config.load import Config
from ernie_vil2.data.files.build import read_stores
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.mixture import MixtureReader
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.loader import TrainingLoader, TrainingViews
from ernie_vil2.data.mixture_order import MixtureOrder
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.orders import Order, Shuffle
from ernie_vil2.data.records import BadRecord
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.train_transform import TrainTransform
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.data.worker_count import worker_count
from ernie_vil2.training.plan import Plan

log = logging.getLogger("ernie_vil2")


@dataclass(frozen=True)
class Stream:
    """One process's share of an endless stream of global batches.

    It has no position: what is read is a function of the seed and the number of the batch. So
    `dataclasses.replace` makes the stream of another plan, or of another number of processes.

    Attributes:
        dataset: records as views.
        workers: processes that read; 0: a thread does.
        timeout: seconds that may pass before a worker is replaced; None: any.
    """

    dataset: TrainingViews
    plan: Plan
    seed: int
    shuffle: Shuffle
    workers: int
    timeout: float | None
    rank: int
    world_size: int

    @classmethod
    def of(cls, config: Config, plan: Plan, tokenizer: Tokenizer, ledger: Ledger) -> Stream:
        """That of a run on this process; bad records go to `ledger`."""
        transform, loader = TrainTransform(**config.Transform), config.DataLoader.Train
        read_stores(config.DataLoader.store)
        reader = build_reader(**loader.dataset)
        own = reader.views if isinstance(reader, MixtureReader) else None
        views = ViewMaker(**config.Views, transform=transform, tokenizer=tokenizer, own=own)
        stream = cls(
            TrainingViews(reader, views, ledger, config.Global.seed),
            plan,
            config.Global.seed,
            loader.shuffle,
            worker_count(loader.num_workers, "DataLoader.Train"),
            loader.worker_timeout,
            distributed.rank(),
            distributed.world_size(),
        )
        if stream.mixture is not None:
            log.info("of any records read: %s", stream.records_order)
        return stream

    @property
    def records(self) -> int:
        """In the data set."""
        return len(self.dataset.reader)

    @property
    def mixture(self) -> MixtureReader | None:
        """The reader, where it reads several sources."""
        reader = self.dataset.reader
        return reader if isinstance(reader, MixtureReader) else None

    @property
    def global_batch(self) -> int:
        """Records of a batch, on all processes."""
        return self.plan.rows * self.world_size

    @property
    def shape(self) -> list[int]:
        """Records of a global batch and batches of a step, on which a place in the data depends."""
        return [self.global_batch, self.plan.merge]

    @property
    def steps_per_epoch(self) -> float:
        return self.order().batches_per_epoch / self.plan.merge

    @cached_property
    def records_order(self) -> Order:
        """In which the records are read; made once, as each batch asks for it."""
        return self.dataset.reader.order(self.seed, self.shuffle)

    def order(self, first: int = 0, last: int = 0) -> GlobalBatches:
        """Which records make the batches `first` to `last` - 1."""
        return GlobalBatches(
            self.records_order,
            self.plan.rows,
            self.rank,
            self.world_size,
            first,
            last,
            self.plan.micro,
            self.plan.parts,
        )

    def source_epochs(self, batch: int) -> dict[str, float]:
        """ "<source>/epoch" -> how often a mixture's source was read before `batch`."""
        order = self.records_order
        if not isinstance(order, MixtureOrder):
            return {}
        epochs = order.epochs(batch * self.global_batch)
        return {f"{name}/epoch": epoch for name, epoch in epochs.items()}

    def batches(self, first: int, last: int) -> Generator[list[dict], None, None]:
        """The batches `first` to `last` - 1 as the workers read them, each in micro-batches."""
        order = self.order(first, last)
        yield from TrainingLoader(self.dataset, order, self.workers, self.timeout)

    def steps(self, first: int, count: int) -> Iterator[list[list[dict]]]:
        """The batches of `count` steps from batch `first` on: a list of `merge` for each."""
        batches = self.batches(first, first + count * self.plan.merge)
        for _ in range(count):
            yield list(itertools.islice(batches, self.plan.merge))

    def dropout_seeds(self, batch: int) -> list[int]:
        """A seed for each micro-batch of `batch`.

        Dropout is a function of seed and place in the data, so a resume needs no saved random
        state, and equal micro-batches draw alike on any number of processes.
        """
        sequences = (
            np.random.SeedSequence([self.seed, batch, offset])
            for offset in self.order().micro_offsets
        )
        return [int(sequence.generate_state(1)[0]) for sequence in sequences]

    def name(self, index: int) -> dict:
        """Where the data set's record of this number is from, for people."""
        try:
            record = self.dataset.reader[index]
            return {"index": index, "id": record.id, "source": record.source}
        except BadRecord as error:
            return {"index": index, "source": error.source}
