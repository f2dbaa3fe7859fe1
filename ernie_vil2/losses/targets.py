"""Which records are each other's positives, over all ranks."""

from __future__ import annotations

import functools

import paddle

from ernie_vil2 import distributed


class Targets:
    """Positives of B local rows among the N = WB columns of all ranks, without a B x N mask.

    ids, column_ids: int64 [B, K], [N, K]; a row and a column that agree in any k are positives.
    valid, column_valid: bool [B], [N]; what is False is neither anchor, positive nor negative.
    """

    def __init__(self, ids, valid, column_ids, column_valid):
        self.ids, self.column_ids, self.column_valid = ids, column_ids, column_valid
        # The mean over the valid rows of all ranks is the mean over ranks of these weighted sums.
        world = column_valid.shape[0] / valid.shape[0]
        count = column_valid.astype("float32").sum().clip(min=1.0)
        self.row_weight = valid.astype("float32") * (world / count)  # [B]

    @classmethod
    def gather(cls, rows: int, ids: paddle.Tensor | None, valid: paddle.Tensor | None) -> Targets:
        """Of this rank's `rows` records and those of all ranks, in one collective.

        ids None: each record is its own only positive. valid None: all are valid.
        """
        if ids is None:
            ids = (paddle.arange(rows) + rows * distributed.rank()).unsqueeze(1)
        if valid is None:
            valid = paddle.ones([rows], dtype="bool")
        keys = paddle.concat([ids, valid.astype("int64").unsqueeze(1)], axis=1)  # [B, K + 1]
        columns = distributed.all_gather(keys)  # [WB, K + 1]
        return cls(ids, valid, columns[:, :-1], columns[:, -1].astype("bool"))

    def positive(self, columns: paddle.Tensor | None = None) -> paddle.Tensor:
        """bool [B, C]: positives among `columns`, int64 [C] positions; None for all.

        Valid or not: who asks leaves out columns that are not.
        """
        ids = self.column_ids if columns is None else self.column_ids.gather(columns)
        each = (self.ids[:, k : k + 1] == ids[:, k] for k in range(ids.shape[1]))
        return functools.reduce(paddle.logical_or, each)
