"""The pairs' losses over column blocks: the plain path's numbers without its B x N logits.

The forward streams over blocks of columns with a running log-sum-exp per row; the backward computes
each block's logits again, as FlashAttention does (Dao et al. 2022, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import paddle
from paddle.autograd import PyLayer

from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.plain import MASKED, softplus
from ernie_vil2.losses.targets import Rule, Targets


def chunked_losses(
    rows: paddle.Tensor,
    columns: paddle.Tensor,
    scales: paddle.Tensor,
    biases: paddle.Tensor,
    targets: Targets,
    terms: list[Term],
    chunk: int,
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """`plain_losses` with `chunk` columns at a time.

    Memory beside the inputs and their gradients is O(B x (chunk + D)), whatever N.
    """
    return _Chunked.apply(rows, columns, scales, biases, targets, terms, chunk)


class _Chunked(PyLayer):
    @staticmethod
    def forward(ctx, rows, columns, scales, biases, targets, terms, chunk):
        directions = _directions(rows, scales, biases, targets, terms)
        sums = [(_Sigmoid if d.sigmoid else _Softmax)(rows.shape[0]) for d in directions]
        counts = {d.rule: paddle.zeros([rows.shape[0]]) for d in directions}  # a row's positives
        for block in _blocks(columns, targets, counts, chunk):
            for rule, positives in block.positives.items():
                counts[rule] = positives.add(counts[rule], 1.0)
            for d, s in zip(directions, sums):
                s.add(d.logits(block), block.positives[d.rule])
        shares = {rule: 1.0 / count.clip(min=1.0) for rule, count in counts.items()}

        losses, accuracies = (paddle.zeros([len(terms)]) for _ in range(2))
        for d, s in zip(directions, sums):
            weight = targets.row_weight * d.share
            losses[d.term] += (s.loss(shares[d.rule]) * weight).sum()
            accuracies[d.term] += (s.right() * weight).sum()
        ctx.save_for_backward(rows, columns, scales, biases)
        ctx.rest = targets, terms, chunk, sums, shares
        ctx.mark_non_differentiable(accuracies)
        return losses, accuracies

    @staticmethod
    def backward(ctx, upstream, _):
        inputs = ctx.saved_tensor()
        with paddle.amp.auto_cast(enable=False):
            gradients = _gradients(inputs, upstream, *ctx.rest)
        # paddle wants None for an input that takes no gradient
        return tuple(None if x.stop_gradient else g for x, g in zip(inputs, gradients))


def _gradients(inputs, upstream, targets, terms, chunk, sums, shares):
    rows, columns, scales, biases = inputs
    directions = _directions(rows, scales, biases, targets, terms)
    weights = [targets.row_weight * (upstream[d.term] * d.share) for d in directions]
    to_queries = [paddle.zeros_like(d.queries) for d in directions]
    to_columns = paddle.zeros([columns.shape[0] * columns.shape[1], columns.shape[2]])
    to_scales, to_biases = paddle.zeros_like(scales), paddle.zeros_like(biases)
    for block in _blocks(columns, targets, shares, chunk):
        to_views = [paddle.zeros_like(view) for view in block.views]
        for d, s, weight, to_query in zip(directions, sums, weights, to_queries):
            positives, share = block.positives[d.rule], shares[d.rule]
            slopes = s.slopes(d.logits(block), positives, share, weight)  # [B, C]
            to_query.add_(paddle.matmul(slopes, block.views[d.b]))
            to_views[d.b].add_(paddle.matmul(slopes, d.queries, transpose_x=True))
            if d.sigmoid:
                to_biases[d.term] += slopes.sum()
        for index, to_view in zip(block.indices, to_views):
            to_columns.scatter_(index, to_view)  # in place: no second [N, V, D]

    to_rows = [paddle.zeros([rows.shape[0], rows.shape[2]]) for _ in range(rows.shape[1])]
    for d, to_query in zip(directions, to_queries):
        to_scales[d.term] += (rows[:, d.a] * to_query).sum()
        to_rows[d.a].add_(to_query * scales[d.term])
    return paddle.stack(to_rows, 1), to_columns.reshape_(columns.shape), to_scales, to_biases


class _Direction(NamedTuple):
    """Rows of view a against columns of view b: all of a sigmoid term, half of a softmax term."""

    term: int
    a: int
    b: int
    queries: paddle.Tensor  # [B, D], rows with the scale multiplied in
    bias: paddle.Tensor
    rule: Rule
    sigmoid: bool

    @property
    def share(self) -> float:
        """Of the term's loss."""
        return 1.0 if self.sigmoid else 0.5

    def logits(self, block: _Block) -> paddle.Tensor:
        """[B, C], masked where left out."""
        logits = paddle.matmul(self.queries, block.views[self.b], transpose_y=True)
        if self.sigmoid:
            logits.add_(self.bias)
        block.left_out[self.rule].put_(logits, MASKED)
        return logits


def _directions(rows, scales, biases, targets, terms) -> list[_Direction]:
    result = []
    for p, (a, b, sources, sigmoid) in enumerate(terms):
        rule = targets.rule(sources)
        for x, y in [(a, b)] if sigmoid else [(a, b), (b, a)]:
            result.append(_Direction(p, x, y, rows[:, x] * scales[p], biases[p], rule, sigmoid))
    return result


class _Block(NamedTuple):
    """Some columns that are valid, and which of them are positives or left out, by rule."""

    indices: list[paddle.Tensor]  # V x int64 [C], into the columns as [N * V, D]
    views: list[paddle.Tensor]  # V x [C, D]
    positives: dict[Rule, _Entries]
    left_out: dict[Rule, _Entries]


def _blocks(
    columns: paddle.Tensor, targets: Targets, rules: Collection[Rule], chunk: int
) -> Iterator[_Block]:
    count, width = columns.shape[1:]
    columns = columns.reshape([-1, width])  # [N, V, D] -> [N * V, D], whose rows copy fast
    valid = targets.column_valid.nonzero().flatten()
    for start in range(0, valid.shape[0], chunk):
        index = valid[start : start + chunk]
        indices = [index * count + view for view in range(count)]
        views = [columns.gather(each) for each in indices]
        found = targets.entries(index, rules)
        kinds = ({rule: _Entries(*each[k]) for rule, each in found.items()} for k in (0, 1))
        yield _Block(indices, views, *kinds)


class _Entries:
    """The few entries of a [B, C] block of one kind: P of them, read and written alone."""

    def __init__(self, row: paddle.Tensor, place: paddle.Tensor):
        self.row, self._place = row, place  # int64 [P]; the place is in the flattened block
        self._any = place.shape[0] > 0  # else no kernel may be asked for

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


class _Best:
    """The best positive and the best negative of each row so far."""

    def __init__(self, rows: int):
        self.positive = self.negative = paddle.full([rows], MASKED)

    def rank(self, logits, positives: _Entries) -> paddle.Tensor:
        """Take in a block of logits [B, C]; returns its positives' [P]."""
        own = positives.take(logits)
        positives.put_(logits, MASKED)
        self.negative = paddle.maximum(self.negative, logits.max(-1))
        self.positive = positives.maximum(self.positive, own)
        positives.put_(logits, own)
        return own

    def right(self) -> paddle.Tensor:
        """float32 [B], 1 where the best positive beats all negatives."""
        return (self.positive > self.negative).astype("float32")


class _Softmax(_Best):
    """Running log-sum-exp of each row, and the sum of its positives' logits."""

    def __init__(self, rows: int):
        super().__init__(rows)
        self.top = self.positive
        self.total = self.positive_sum = paddle.zeros([rows])

    def add(self, logits, positives):
        """Take in a block of logits [B, C], which is overwritten."""
        own = self.rank(logits, positives)
        self.positive_sum = positives.add(self.positive_sum, own)
        top = paddle.maximum(self.positive, self.negative)
        block = logits.subtract_(top.unsqueeze(1)).exp_().sum(-1)
        self.total = self.total * (self.top - top).exp() + block
        self.top = top

    def _log_sum_exp(self):
        return self.top + self.total.clip(min=1.0).log()  # at least 1, but where nothing is valid

    def loss(self, share):
        """float32 [B]: mean negative log-probability of a row's 1 / share positives."""
        return self._log_sum_exp() - self.positive_sum * share

    def slopes(self, logits, positives, share, weight):
        """Derivatives of the sum of weight x loss, in place of a block's logits."""
        logits.subtract_(self._log_sum_exp().unsqueeze(1)).exp_().multiply_(weight.unsqueeze(1))
        positives.put_(logits, positives.take(logits) - positives.at_rows(share * weight))
        return logits


class _Sigmoid(_Best):
    """Running sum of each row's -log sigmoid(z logit), z = 1 for positives, else -1."""

    def __init__(self, rows: int):
        super().__init__(rows)
        self.total = paddle.zeros([rows])

    def add(self, logits, positives):
        """Take in a block of logits [B, C], which is overwritten."""
        positives.put_(logits, -self.rank(logits, positives))
        self.total = self.total + softplus(logits).sum(-1)

    def loss(self, _):
        """float32 [B]"""
        return self.total

    def slopes(self, logits, positives, _, weight):
        """Derivatives of the sum of weight x loss, in place of a block's logits."""
        positives.put_(logits, -positives.take(logits))
        logits.sigmoid_().multiply_(weight.unsqueeze(1))
        positives.put_(logits, -positives.take(logits))
        return logits
