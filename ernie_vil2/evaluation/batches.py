"""The rows of a set as an evaluation reads them, by worker processes; none is lost in silence."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ernie_vil2 import distributed
from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.loader import one_thread
from ernie_vil2.data.records import BadRecord, Record, Records
from ernie_vil2.data.workers import WorkerPool
from ernie_vil2.errors import UserError

_AHEAD = 64  # batches for which a reader is told that it will be asked


class Row(NamedTuple):
    """A record without its pixels.

    Attributes:
        number: its place in the reader.
        image_id: "" for a text alone.
        captions: strings.
        text_ids: as in `Record`.
        label: of its class; None where nobody asked.
    """

    number: int
    image_id: str
    captions: tuple[str, ...]
    text_ids: tuple[tuple[int, Any], ...]
    label: str | None = None


class Rows:
    """Iterates over batches of this rank's share of a set.

    A batch is a dict: "rows", a list of `Row`; "pixels", what `transform` makes of those of them
    that have an image, stacked; "bad", a list of BadRecord.

    Args:
        reader: a sequence of records.
        transform: from an image's bytes, or uint8 [H, W, 3], to an array of always one shape.
        batch_size: records of a batch; the last one may have fewer.
        num_workers: processes, which end with the iterator; 0: this one reads.
        timeout: seconds after which a silent worker is replaced; None: never.
        label: from a record to that of its class, may raise BadRecord; None: not asked for.
    """

    def __init__(
        self,
        reader: Records,
        transform: Callable[[Any], np.ndarray],
        batch_size: int,
        num_workers: int = 0,
        timeout: float | None = None,
        label: Callable[[Record], str] | None = None,
    ):
        self.reader, self.transform, self.batch_size = reader, transform, batch_size
        self.num_workers, self.timeout, self.label = num_workers, timeout, label
        world, rank = distributed.world_size(), distributed.rank()
        self.first, self.last = (len(reader) * r // world for r in (rank, rank + 1))
        self._none = transform(np.zeros([1, 1, 3], np.uint8))[None][:0]

    def __len__(self) -> int:
        return -(-(self.last - self.first) // self.batch_size)

    def __iter__(self) -> Generator[dict[str, Any], None, None]:
        if not self.num_workers or not len(self):
            yield from map(self._batch, range(len(self)))
            return
        pixels = self.batch_size * int(np.prod(self._none.shape[1:])) * self._none.itemsize
        pool = WorkerPool(
            self._in_worker,
            len(self),
            min(self.num_workers, len(self)),
            pixels + 64,  # shared memory of no bytes cannot be made
            threading.Event(),
            self.timeout,
        )
        with contextlib.closing(pool):
            yield from pool

    def _in_worker(self, number: int) -> dict[str, Any]:
        one_thread(number)
        return self._batch(number)

    def _batch(self, number: int) -> dict[str, Any]:
        first = self.first + number * self.batch_size
        rows: list[Row] = []
        pixels: list[np.ndarray] = []
        bad: list[BadRecord] = []
        if isinstance(self.reader, Reader):  # rows are read in their order: one tells of a batch
            following = first + self.batch_size * np.arange(1, _AHEAD + 1)
            self.reader.prefetch(following[following < self.last])
        for place in range(first, min(first + self.batch_size, self.last)):
            try:
                record = self.reader[place]
                label = self.label(record) if self.label and record.image else None
                if record.image:
                    pixels.append(self.transform(record.image))
            except ImageError as error:
                bad.append(BadRecord(record.source, str(error)))
            except BadRecord as error:
                bad.append(error)
            else:
                rows.append(Row(place, record.id, record.captions, record.text_ids, label))
        return {"rows": rows, "pixels": np.stack(pixels) if pixels else self._none, "bad": bad}


def check_rows(rows: Rows) -> None:
    """Read and decode all rows, each rank its share.

    Raises:
        UserError: on every rank, for a bad row, and where no text stands with an image.
    """
    first_bad: BadRecord | None = None
    pairs = False
    with contextlib.closing(iter(rows)) as batches:
        for batch in batches:
            pairs = pairs or any(row.image_id and row.captions for row in batch["rows"])
            if batch["bad"]:
                first_bad = batch["bad"][0]
                break
    of_ranks = distributed.all_gather_objects((first_bad, pairs))
    refuse_bad([bad for bad, _ in of_ranks])
    if not any(pairs for _, pairs in of_ranks):
        raise UserError("no text of DataLoader.Eval has an image: there is no pair to score")


def refuse_bad(bad: Sequence[BadRecord | None]) -> None:
    """Raise UserError for the first BadRecord of a sequence, whose other items are None."""
    for error in filter(None, bad):
        raise UserError(
            f"{error}: an evaluation leaves nothing out; mend or remove it, or set "
            "DataLoader.Eval.skip_bad (--skip-bad)"
        )
