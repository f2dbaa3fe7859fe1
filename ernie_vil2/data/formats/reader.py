"""What all readers are: sequences of records.

Rows are found through an index and parsed when they are asked for, so memory does not grow with
the set. A row that is no record is neither dropped nor fatal: asking for it raises BadRecord.
"""

from __future__ import annotations

import copy

from ernie_vil2.data.records import Record


class Reader:
    """A sequence of records; `reader[i]` raises BadRecord where row i is none."""

    _least_captions = 1  # of a record

    def evaluation(self) -> Reader:
        """The same set as an evaluation reads it: an image without a text is a record too, and so
        is a text without an image, which training has no use for."""
        reader = copy.copy(self)
        reader._least_captions = 0
        return reader

    def __len__(self) -> int:
        raise NotImplementedError

    def _get(self, position: int) -> Record:
        raise NotImplementedError

    def __getitem__(self, position: int) -> Record:
        size = len(self)
        if not -size <= position < size:
            raise IndexError(f"record {position} of {size}")
        return self._get(int(position) % size)
