"""The loss of each row while blocks of columns come in one after the other, and its derivatives."""

from __future__ import annotations

import paddle

from ernie_vil2.losses.plain import MASKED, softplus


class BlockEntries:
    """P entries of a [B, C] block, the few of one kind, which are read and written alone."""

    def __init__(self, row: paddle.Tensor, place: paddle.Tensor):
        self.row, self._place = row, place  # int64 [P]; the place is in the flattened block
        self._any = place.shape[0] > 0  # Paddle's kernels do not take empty inputs

    def take(self, block: paddle.Tensor) -> paddle.Tensor:
        """[B, C] -> [P]"""
        return block.flatten().gather(self._place) if self._any else paddle.zeros([0])

    def put_(self, block: paddle.Tensor, values: paddle.Tensor | float) -> None:
        """Write values [P], or one number, into the block."""
        if self._any:
            shape = block.shape
            block.reshape_([-1]).scatter_(self._place, self._full(values))
            block.reshape_(shape)

    def add(self, x: paddle.Tensor, values: paddle.Tensor | float) -> paddle.Tensor:
        """x [B] plus each row's values [P], or one number for each."""
        return paddle.index_add(x, self.row, 0, self._full(values)) if self._any else x

    def maximum(self, x: paddle.Tensor, values: paddle.Tensor) -> paddle.Tensor:
        """x [B] or each row's largest value, whichever is larger."""
        if not self._any:
            return x
        return paddle.put_along_axis(x, self.row, values, 0, reduce="amax")

    def at_rows(self, x: paddle.Tensor) -> paddle.Tensor:
        """x [B] -> [P]"""
        return x.gather(self.row) if self._any else paddle.zeros([0])

    def _full(self, values: paddle.Tensor | float) -> paddle.Tensor:
        return paddle.full(self.row.shape, values) if isinstance(values, float) else values


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

    def rank(self, logits: paddle.Tensor, positives: BlockEntries) -> paddle.Tensor:
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
        positives.put_(logits, positives.take(logits) - positives.at_rows(share * weight))
        return logits


class _Sigmoid(RunningLoss):
    """The running sum of each row's -log sigmoid(z logit), z = 1 for positives, else -1."""

    def __init__(self, rows: int):
        super().__init__(rows)
        self.total = paddle.zeros([rows])

    def add(self, logits: paddle.Tensor, positives: BlockEntries) -> None:
        positives.put_(logits, -self.rank(logits, positives))
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
        positives.put_(logits, -positives.take(logits))
        logits.sigmoid_().multiply_(weight.unsqueeze(1))
        positives.put_(logits, -positives.take(logits))
        return logits


def running_loss(sigmoid: bool, rows: int) -> RunningLoss:
    return _Sigmoid(rows) if sigmoid else _Softmax(rows)
