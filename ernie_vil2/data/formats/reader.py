"""What all readers are: sequences of records.

Rows are found through an index and parsed when they are asked for, so memory does not grow with
the set. A row that is no record is neither dropped nor fatal: asking for it raises BadRecord.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.orders import EpochOrder, Order, ShardOrder, Shuffle
from ernie_vil2.data.records import Record
from ernie_vil2.errors import UserError


class Reader:
    """A sequence of records; `reader[i]` raises BadRecord where row i is not a record.

    A sub-class gives `__len__` and `_get`. It can be pickled, and used in forked processes.

    Attributes:
        least_captions: of a record: 1 in training; 0 in an evaluation, for which an image without
            a text is a record too.
    """

    least_captions = 1

    def evaluation(self) -> Reader:
        """The same set as an evaluation reads it: an image without a text is a record too, and so
        is a text without an image, which training has no use for."""
        reader = copy.copy(self)
        reader.least_captions = 0
        return reader

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def shard_lengths(self) -> Numbers | None:
        """How many records stand together, int64 [shards], for an order that reads few shards at a
        time; None: the set has no shards."""
        return None

    def order(self, seed: int, shuffle: Shuffle) -> Order:
        """In which training reads the records.

        Raises:
            UserError: the reader knows no such order.
        """
        if isinstance(shuffle, Mapping) and shuffle["mode"] == "shards":
            if self.shard_lengths is None:
                raise UserError(
                    "DataLoader.Train.shuffle has mode shards, for which the data set has no "
                    "shards: set it to true, or read the set as name: shards"
                )
            return ShardOrder(self.shard_lengths, shuffle["window"], seed)
        return EpochOrder(len(self), seed, shuffle is not False)

    def prefetch(self, positions: Numbers) -> None:
        """Hear that these records, the most urgent first, will be asked for soon; int64 [B]."""

    def find(self, source: str) -> int | None:
        """The number of the record that has this source, where that shows without reading all the
        set; None: it does not, or there is none."""
        return None

    def _get(self, position: int) -> Record:
        """The record at `position`, from 0 to below the length. Raises BadRecord."""
        raise NotImplementedError

    def __getitem__(self, position: int) -> Record:
        size = len(self)
        if not -size <= position < size:
            raise IndexError(f"record {position} of {size}")
        return self._get(int(position) % size)
