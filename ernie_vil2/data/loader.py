"""The batches that training reads: records made into views by worker processes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
from collections.abc import Generator, Iterator
from typing import Any

import cv2
import numpy as np
from paddle.io import DataLoader, Dataset, IterableDataset

from ernie_vil2.data.arrays import Array
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.records import BadRecord
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.data.workers import WorkerPool
from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_AHEAD = 64  # micro-batches for which a reader is told that it will be asked
_IDS = "ids/"  # ids go from process to process under names that begin so


class TrainingViews(Dataset):
    """Records as views; one that cannot be read goes to the ledger and counts as not valid.

    An item is (batch, place in the global batch, index of the record). What is drawn for it is a
    function of seed, batch and place, so alike for any number of processes and workers.
    """

    def __init__(self, reader: Reader, views: ViewMaker, ledger: Ledger, seed: int):
        self.reader, self.views, self.ledger, self.seed = reader, views, ledger, seed
        self._warned = False

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, item: tuple[int, int, int]) -> dict[str, Any]:
        batch, place, index = item
        # from 1: a seed sequence that ends with 0 equals the one without it, which is the draw's
        rng = np.random.default_rng([self.seed, batch, 1 + place])
        try:
            record = self.reader[index]
            # a batch's draw depends on the batch alone, so that all ranks draw alike
            of_batch = np.random.default_rng([self.seed, batch])
            batch_draw = self.views.draw_tags(of_batch, record.data_set)
            try:
                return self.views(record, rng, batch_draw)
            except ImageError as error:
                raise BadRecord(record.source, str(error)) from error
        except BadRecord as error:
            self._note(error)
            return {**self.views.placeholder(), "valid": False}

    def _note(self, bad_record: BadRecord) -> None:
        try:
            self.ledger.add(bad_record)
        except UserError as error:  # the disk is full, say, which is no reason to end a run
            if not self._warned:
                log.warning("%s; bad records are skipped all the same, as %s", error, bad_record)
            self._warned = True


def one_thread(worker_id: int) -> None:
    """Set a worker process up: the workers are the parallelism, OpenCV needs none of its own."""
    cv2.setNumThreads(0)


class TrainingLoader:
    """The batches of `batches`, in order, also where worker processes that make them die.

    Iterates over batches, each the list of its micro-batches. A micro-batch is a dict of what
    `ViewMaker.collate` gives, as tensors, and "index": int64 [m], an array: the records' numbers in
    the data set.

    Args:
        num_workers: processes; 0: a thread reads. They end with the iterator.
        timeout: seconds that training waits for a micro-batch before the worker that makes it is
            replaced; None or 0: for ever.
        max_restarts: so many deaths of workers in a row, without a batch in between, are allowed.

    Raises:
        RuntimeError: the workers keep dying. An error of a worker is raised as it is, where its
            batch would be.
    """

    def __init__(
        self,
        dataset: TrainingViews,
        batches: GlobalBatches,
        num_workers: int,
        timeout: float | None = None,
        max_restarts: int = 3,
    ):
        self.dataset, self.batches = dataset, batches
        self.num_workers, self.timeout, self.max_restarts = num_workers, timeout, max_restarts

    def __len__(self) -> int:
        return self.batches.last_batch - self.batches.first_batch

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        with contextlib.ExitStack() as stack:
            # an exception that ends the program may keep this iterator to its very end
            atexit.register(stack.close)
            stack.callback(atexit.unregister, stack.close)
            stopped = threading.Event()
            source: Iterator[dict[str, Any]] = map(self._micro_batch, range(len(self.batches)))
            if self.num_workers and len(self.batches):
                source = pool = self._pool(stopped)
                stack.callback(pool.close)
            tensors = stack.enter_context(contextlib.closing(_prefetched(source, stopped)))
            batch = []
            for number, micro_batch in enumerate(tensors):
                index = [index for _, _, index in self.batches[number]]
                micro_batch["index"] = np.array(index, dtype=np.int64)
                batch.append(_nested(micro_batch))
                if len(batch) == len(self.batches.micro_offsets):
                    yield batch
                    batch = []

    def _micro_batch(self, number: int) -> dict[str, Array]:
        """What `ViewMaker.collate` gives, flat: workers and paddle's thread take arrays by name."""
        self._tell_ahead(number)
        samples = [self.dataset[item] for item in self.batches[number]]
        micro_batch = self.dataset.views.collate(samples)
        ids = micro_batch.pop("ids")
        return {**micro_batch, **{_IDS + source: array for source, array in ids.items()}}

    def _tell_ahead(self, number: int) -> None:
        """Tell the reader what it has not been told of by the micro-batches before this one."""
        first = number + _AHEAD if number else 1
        following = range(first, min(number + _AHEAD + 1, len(self.batches)))
        positions = [index for later in following for _, _, index in self.batches[later]]
        if positions:
            self.dataset.reader.prefetch(np.array(positions, np.int64))

    def _in_worker(self, number: int) -> dict[str, Array]:
        one_thread(number)
        return self._micro_batch(number)

    def _pool(self, stopped: threading.Event) -> WorkerPool:
        sample = self.dataset.views.placeholder()
        numbers = sample.pop("ids")
        record_bytes = sum(array.nbytes for array in sample.values())
        record_bytes += 8 * len(numbers) + 1  # and "valid"
        return WorkerPool(
            self._in_worker,
            len(self.batches),
            self.num_workers,
            self.batches.micro_batch_size * record_bytes + 4096,  # and what alignment takes
            stopped,
            self.timeout,
            self.max_restarts,
        )


def _nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """`arrays` with the ids as the mapping that they were."""
    ids = {name[len(_IDS) :]: a for name, a in arrays.items() if name.startswith(_IDS)}
    return {**{n: a for n, a in arrays.items() if not n.startswith(_IDS)}, "ids": ids}


def _prefetched(
    source: Iterator[dict[str, Any]], stopped: threading.Event
) -> Generator[dict[str, Any], None, None]:
    """Tensors of the arrays of `source`, made and copied to the GPU ahead by paddle's DataLoader.

    Closing this generator sets `stopped`, which must end `source` soon, and waits for the thread.
    """
    feed = _Feed(source, stopped)
    stream = iter(
        DataLoader(feed, batch_size=None, num_workers=0, collate_fn=_as_is, return_list=False)
    )
    try:
        yield from stream
    except GeneratorExit:  # left early: bring the thread to its end
        stopped.set()
        for _ in stream:
            pass
        raise
    if feed.error is not None:
        raise feed.error


class _Feed(IterableDataset):
    """What the DataLoader's thread reads; it would print an error and lose it, so it is kept."""

    def __init__(self, source: Iterator[dict[str, Any]], stopped: threading.Event):
        self.source, self.stopped = source, stopped
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while not self.stopped.is_set():
            try:
                arrays = next(self.source)
            except StopIteration:
                return
            except Exception as error:
                self.error = error
                return
            yield arrays


def _as_is(batch: Any) -> Any:
    return batch
