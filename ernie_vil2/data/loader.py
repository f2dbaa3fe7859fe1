"""Which records a step reads, and the worker processes that read them."""

import os
import shutil

import cv2
import numpy as np
from paddle.io import BatchSampler, DataLoader, Dataset

from ernie_vil2.data.records import BadRecord, Ledger
from ernie_vil2.data.transforms import ImageError
from ernie_vil2.data.views import ViewMaker
from ernie_vil2.errors import UserError

_MASK32 = np.uint64(0xFFFFFFFF)


def _mix(x: np.ndarray, salt: int) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of x changes every other."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(salt)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permute(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Where a pseudo-random permutation of range(size) sends `positions`; int64 in, int64 out.

    A four-round Feistel network over the next power of four, walked until it lands in range: no
    table of the set's size is held, and any position is found at once, as a resume needs.
    """
    if size <= 1:
        return np.zeros_like(positions, dtype=np.int64)
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = _mix(np.arange(4, dtype=np.uint64), (seed * 0x9E3779B97F4A7C15) % 2**64)

    def network(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for k in keys:
            left, right = right, left ^ (_mix(right, int(k)) & low)
        return (left << half) | right

    result = network(positions.astype(np.uint64))
    while (outside := result >= size).any():
        result[outside] = network(result[outside])
    return result.astype(np.int64)


class GlobalBatches(BatchSampler):
    """This rank's share of each global batch, a function of seed and step alone.

    Yields lists of (step, index). Each epoch visits every record once in an order of its own, but
    for the last `size % global batch` of it.
    """

    def __init__(self, size, batch_size, rank, world_size, seed, shuffle, first_step, last_step):
        self.size, self.batch_size = size, batch_size
        self.global_batch = batch_size * world_size
        self.offset = batch_size * rank
        self.seed, self.shuffle = seed, shuffle
        self.first_step, self.last_step = first_step, last_step
        if size < self.global_batch:
            raise UserError(
                f"the training set has {size} records, a global batch {self.global_batch} "
                f"({batch_size} x {world_size} processes): lower DataLoader.Train.batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.global_batch

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)

    def indices(self, step: int) -> np.ndarray:
        """The records of this rank's batch at `step` (from 0); int64 [B]."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        positions = np.arange(self.batch_size) + batch * self.global_batch + self.offset
        if not self.shuffle:
            return positions
        return permute(
            positions,
            self.size,
            int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]),
        )

    def __iter__(self):
        for step in range(self.first_step, self.last_step):
            yield [(step, int(index)) for index in self.indices(step)]


class TrainingViews(Dataset):
    """Records as views; one that cannot be read goes to the ledger and counts as not valid."""

    def __init__(self, reader, views: ViewMaker, ledger: Ledger, seed: int):
        self.reader, self.views, self.ledger, self.seed = reader, views, ledger, seed

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, item) -> dict:
        step, index = item
        # a batch's draw depends on the step alone, so that all ranks draw alike
        batch_draw = self.views.draw_tags(np.random.default_rng([self.seed, step]))
        rng = np.random.default_rng([self.seed, step, index])
        try:
            record = self.reader[index]
            try:
                return self.views(record, rng, batch_draw)
            except ImageError as error:
                raise BadRecord(record.source, str(error)) from error
        except BadRecord as error:
            self.ledger.add(error)
            return {**self.views.placeholder(), "valid": False}


def one_thread(worker_id: int) -> None:
    """Set a worker process up: the workers are the parallelism, OpenCV needs none of its own."""
    cv2.setNumThreads(0)


def training_loader(dataset: TrainingViews, batches: GlobalBatches, num_workers: int) -> DataLoader:
    """Batches of `ViewMaker.collate` as tensors, in the order of `batches`."""
    views = dataset.views
    batch_bytes = batches.batch_size * len(views.image_views) * 3 * views.transform.size**2 * 4
    waiting = 2 * num_workers + 1  # batches that paddle's workers make ahead
    # Containers often have 64 MiB of it, and paddle dies of a bus error when it is full.
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.views.collate,
        num_workers=num_workers,
        worker_init_fn=one_thread,
        use_shared_memory=shared > 2 * waiting * batch_bytes,
        return_list=False,
    )
