"""The loss of each row while blocks of columns come in one after the other, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable

import paddle

from ernie_vil2.losses.plain import MASKED, softplus
from ernie_vil2.losses.targets import Entries


class BlockEntries:
    """P entries of a [B, C] block, the few of one kind, which are read and written alone.

    There may be none. Then no operator is called, since none takes an empty tensor everywhere: a
    GPU has no grid for it, and Paddle 2.6 no index_add.
    """

    def __init__(self, entries: Entries | None):
        self._entries = entries

    def take(self, block: paddle.Tensor) -> paddle.Tensor | None:
        """[B, C] -> [P]; None where there are none, which the other methods take for [P]."""
        if self._entries is None:
            return None
        _, place = self._entries
        return block.flatten().gather(place)

    def put_(self, block: paddle.Tensor, values: paddle.Tensor | float | None) -> None:
        """Write values [P], or one number, into the block."""
        if self._entries is not None:
            row, place = self._entries
            shape = block.shape
            block.reshape_([-1]).scatter_(place, _full(row, values))
            block.reshape_(shape)

    def change_(
        self, block: paddle.Tensor, change: Callable[[paddle.Tensor], paddle.Tensor]
    ) -> None:
        """Write what `change` makes of the entries [P] in their place."""
        values = self.take(block)
        if values is not None:
            self.put_(block, change(values))

    def add(self, x: paddle.Tensor, values: paddle.Tensor | float | None) -> paddle.Tensor:
        """x [B] plus each row's values [P], or one number for each."""
        if self._entries is None:
            return x
        row, _ = self._entries
        return paddle.index_add(x, row, 0, _full(row, values))

    def maximum(self, x: paddle.Tensor, values: paddle.Tensor | None) -> paddle.Tensor:
        """x [B] or each row's largest value, whichever is larger."""
        if self._entries is None:
            return x
        return paddle.put_along_axis(x, self._entries[0], values, 0, reduce="amax")

    def subtract_(self, block: paddle.Tensor, of_rows: paddle.Tensor) -> None:
        """Take from each entry its row's number of [B]."""
        if self._entries is not None:
            row, _ = self._entries
            self.change_(block, lambda values: values - of_rows.gather(row))


def _full(row: paddle.Tensor, values: paddle.Tensor | float | None) -> paddle.Tensor:
    return paddle.full(row.shape, values) if isinstance(values, float) else values


class RunningLoss:
    """A direction's loss as far as its blocks were added, and its best logits of each row.

    Attributes:
        positive, negative: [B], the largest logit of a row's positives, of its negatives.
    """

    def __init__(self, rows: int):
        self.positive = self.negative = paddle.full([rows], MASKED)

    def add(self, logits: paddle.Tensor, positives: BlockEntries) -> None:
        """Add a block of logits [B, C], which is overwritten."""
        raise NotImplementedError

    def loss(self, share: paddle.Tensor) -> paddle.Tensor:
        """float32 [B], of rows with 1 / share positives."""
        raise NotImplementedError

    def slopes(
        self,
        logits: paddle.Tensor,
        positives: BlockEntries,
        share: paddle.Tensor,
        weight: paddle.Tensor,
    ) -> paddle.Tensor:
        """Derivatives of the sum of weight x loss by a block's logits, in their place."""
        raise NotImplementedError

    def rank(self, logits: paddle.Tensor, positives: BlockEntries) -> paddle.Tensor | None:
        """Compare a block of logits [B, C] with the best so far; returns its positives' [P]."""
        own = positives.take(logits)
        positives.put_(logits, MASKED)
        self.negative = paddle.maximum(self.negative, logits.max(-1))
        self.positive = positives.maximum(self.positive, own)
        positives.put_(logits, own)
        return own

    def right(self) -> paddle.Tensor:
        """float32 [B], 1 where the best positive beats all negatives."""
        return (self.positive > self.negative).astype("float32")


class _Softmax(RunningLoss):
    """The running log-sum-exp of each row, and the sum of its positives' logits."""

    def __init__(self, rows: int):
        super().__init__(rows)
        self.top = self.positive
        self.total = self.positive_sum = paddle.zeros([rows])

    def add(self, logits: paddle.Tensor, positives: BlockEntries) -> None:
        own = self.rank(logits, positives)
        self.positive_sum = positives.add(self.positive_sum, own)
        top = paddle.maximum(self.positive, self.negative)
        block = logits.subtract_(top.unsqueeze(1)).exp_().sum(-1)
        self.total = self.total * (self.top - top).exp() + block
        self.top = top

    def _log_sum_exp(self) -> paddle.Tensor:
        # the total is at least 1 unless no column is valid
        return self.top + self.total.clip(min=1.0).log()

    def loss(self, share: paddle.Tensor) -> paddle.Tensor:
        """float32 [B]: mean negative log-probability of a row's 1 / share positives."""
        return self._log_sum_exp() - self.positive_sum * share

    def slopes(
        self,
        logits: paddle.Tensor,
        positives: BlockEntries,
        share: paddle.Tensor,
        weight: paddle.Tensor,
    ) -> paddle.Tensor:
        logits.subtract_(self._log_sum_exp().unsqueeze(1)).exp_().multiply_(weight.unsqueeze(1))
        positives.subtract_(logits, share * weight)
        return logits


class _Sigmoid(RunningLoss):
    """The running sum of each row's -log sigmoid(z logit), z = 1 for positives, else -1."""

    def __init__(self, rows: int):
        super().__init__(rows)
        self.total = paddle.zeros([rows])

    def add(self, logits: paddle.Tensor, positives: BlockEntries) -> None:
        self.rank(logits, positives)
        positives.change_(logits, paddle.neg)
        self.total = self.total + softplus(logits).sum(-1)

    def loss(self, share: paddle.Tensor) -> paddle.Tensor:
        return self.total

    def slopes(
        self,
        logits: paddle.Tensor,
        positives: BlockEntries,
        share: paddle.Tensor,
        weight: paddle.Tensor,
    ) -> paddle.Tensor:
        positives.change_(logits, paddle.neg)
        logits.sigmoid_().multiply_(weight.unsqueeze(1))
        positives.change_(logits, paddle.neg)
        return logits


def running_loss(sigmoid: bool, rows: int) -> RunningLoss:
    return _Sigmoid(rows) if sigmoid else _Softmax(rows)
