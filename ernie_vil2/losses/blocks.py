"""The pairs' losses and their gradients while columns come in, one block after the other.

`chunked.py`, whose columns are gathered, and `ring.py`, whose columns travel, share this.

With logits x_j of a row, of which the set P are positives, the softmax loss is log sum_j exp x_j
minus the mean of x_j over P. One pass over blocks gives the sum: of what was seen keep the largest
logit m and s = sum exp(x_j - m); a block with the largest logit b makes m' = max(m, b) and
s' = s exp(m - m') + sum exp(x_j - m'), and in the end log sum exp x_j = m + log s (Milakov and
Gimelshein 2018, arXiv 1805.02867). The derivative by x_j is exp(x_j - log sum exp), less 1 / |P|
for a positive: besides the block's own logits it needs two numbers a row. So the backward goes over
the blocks once more and computes their logits again, as FlashAttention does (Dao et al. 2022,
arXiv 2205.14135). The sigmoid loss is a plain sum over columns, whose derivative by a logit needs
no other column at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import paddle

from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.plain import MASKED
from ernie_vil2.losses.running import BlockEntries, RunningLoss, running_loss
from ernie_vil2.losses.targets import Records, Rule, Targets, places


class Seen(NamedTuple):
    """What the forward leaves for the backward, beside its inputs.

    Attributes:
        sums: each direction's.
        shares: rule -> float32 [B], 1 / the number of a row's positives.
        row_weight: float32 [B], of `Records.row_weight`.
    """

    records: Records
    terms: list[Term]
    chunk: int
    sums: list[RunningLoss]
    shares: dict[Rule, paddle.Tensor]
    row_weight: paddle.Tensor


class BlockLosses:
    """Losses and accuracies of B rows against all columns, which are added in parts.

    Args:
        rows: float32 [B, V, D].
        scales, biases: float32 [P].
        records: those of the rows.
        chunk: columns that are scored at a time.
    """

    def __init__(
        self,
        rows: paddle.Tensor,
        scales: paddle.Tensor,
        biases: paddle.Tensor,
        records: Records,
        terms: list[Term],
        chunk: int,
    ):
        self._records, self._terms, self._chunk = records, terms, chunk
        self._directions = _directions(rows, scales, biases, records, terms)
        self._sums = [running_loss(d.sigmoid, rows.shape[0]) for d in self._directions]
        self._positives = {d.rule: paddle.zeros([rows.shape[0]]) for d in self._directions}
        self._count, self._valid_count = 0, paddle.zeros([])

    def add(self, columns: paddle.Tensor, targets: Targets) -> None:
        """Add columns [M, V, D], to which `targets` relates the rows."""
        self._count += columns.shape[0]
        self._valid_count += targets.valid_columns()
        for block in _blocks(columns, targets, self._positives, self._chunk):
            for rule, positives in block.positives.items():
                self._positives[rule] = positives.add(self._positives[rule], 1.0)
            for d, s in zip(self._directions, self._sums):
                s.add(d.logits(block), block.positives[d.rule])

    def finish(self) -> tuple[tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor], Seen]:
        """After the last columns: losses and accuracies, [P] both, those of the rows, [2, P, B]."""
        shares = {rule: 1.0 / count.clip(min=1.0) for rule, count in self._positives.items()}
        row_weight = self._records.row_weight(self._count, self._valid_count)
        losses, accuracies = (paddle.zeros([len(self._terms)]) for _ in range(2))
        of_rows = paddle.zeros([2, len(self._terms), row_weight.shape[0]])
        for d, s in zip(self._directions, self._sums):
            weight = row_weight * d.share
            loss, right = s.loss(shares[d.rule]), s.right()
            losses[d.term] += (loss * weight).sum()
            accuracies[d.term] += (right * weight).sum()
            of_rows[:, d.term] += paddle.stack([loss, right]) * d.share
        seen = Seen(self._records, self._terms, self._chunk, self._sums, shares, row_weight)
        return (losses, accuracies, of_rows), seen


class BlockGradients:
    """Gradients of the whole by the same inputs, whose columns are given in the same parts.

    Args:
        upstream: float32 [P], the gradients of the whole by the losses.
    """

    def __init__(
        self,
        rows: paddle.Tensor,
        scales: paddle.Tensor,
        biases: paddle.Tensor,
        upstream: paddle.Tensor,
        seen: Seen,
    ):
        self._rows, self._scales, self._seen = rows, scales, seen
        self._directions = _directions(rows, scales, biases, seen.records, seen.terms)
        self._weights = [seen.row_weight * (upstream[d.term] * d.share) for d in self._directions]
        self._to_queries = [paddle.zeros_like(d.queries) for d in self._directions]
        self._to_biases = paddle.zeros_like(biases)

    def of_columns(self, columns: paddle.Tensor, targets: Targets) -> paddle.Tensor:
        """Those by columns [M, V, D], which have a part in all the others too."""
        shares = self._seen.shares
        result = paddle.zeros([columns.shape[0] * columns.shape[1], columns.shape[2]])
        for block in _blocks(columns, targets, shares, self._seen.chunk):
            to_views = [paddle.zeros_like(view) for view in block.views]
            for d, s, weight, to_query in zip(
                self._directions, self._seen.sums, self._weights, self._to_queries
            ):
                logits, positives = d.logits(block), block.positives[d.rule]
                slopes = s.slopes(logits, positives, shares[d.rule], weight)  # [B, C]
                to_query.add_(paddle.matmul(slopes, block.views[d.b]))
                to_views[d.b].add_(paddle.matmul(slopes, d.queries, transpose_x=True))
                if d.sigmoid:
                    self._to_biases[d.term] += slopes.sum()
            for index, to_view in zip(block.indices, to_views):
                result.scatter_(index, to_view)  # in place: no second [M, V, D]
        return result.reshape_(columns.shape)

    def of_others(self) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """After the last columns: those by rows, scales and biases."""
        count, views, width = self._rows.shape
        to_scales = paddle.zeros_like(self._scales)
        to_rows = [paddle.zeros([count, width]) for _ in range(views)]
        for d, to_query in zip(self._directions, self._to_queries):
            to_scales[d.term] += (self._rows[:, d.a] * to_query).sum()
            to_rows[d.a].add_(to_query * self._scales[d.term])
        return paddle.stack(to_rows, 1), to_scales, self._to_biases


def wanted(
    inputs: Iterable[paddle.Tensor], gradients: Iterable[paddle.Tensor]
) -> tuple[paddle.Tensor | None, ...]:
    """As Paddle takes them from a PyLayer: None for an input that takes no gradient."""
    return tuple(None if x.stop_gradient else g for x, g in zip(inputs, gradients))


class _Direction(NamedTuple):
    """Rows of view a against columns of view b: a whole sigmoid term, or half a softmax term."""

    term: int
    a: int
    b: int
    queries: paddle.Tensor  # [B, D], rows with the scale multiplied in
    bias: paddle.Tensor
    rule: Rule
    sigmoid: bool

    @property
    def share(self) -> float:
        """The direction's share of its term's loss."""
        return 1.0 if self.sigmoid else 0.5

    def logits(self, block: _Block) -> paddle.Tensor:
        """[B, C], with MASKED for what is left out."""
        logits = paddle.matmul(self.queries, block.views[self.b], transpose_y=True)
        if self.sigmoid:
            logits.add_(self.bias)
        block.left_out[self.rule].put_(logits, MASKED)
        return logits


def _directions(
    rows: paddle.Tensor,
    scales: paddle.Tensor,
    biases: paddle.Tensor,
    records: Records,
    terms: list[Term],
) -> list[_Direction]:
    result = []
    for p, (a, b, sources, sigmoid) in enumerate(terms):
        rule = records.rule(sources)
        for x, y in [(a, b)] if sigmoid else [(a, b), (b, a)]:
            result.append(_Direction(p, x, y, rows[:, x] * scales[p], biases[p], rule, sigmoid))
    return result


class _Block(NamedTuple):
    """C valid columns, and which of their entries are positives or left out, by rule."""

    indices: list[paddle.Tensor]  # V x int64 [C], into the columns as [M * V, D]
    views: list[paddle.Tensor]  # V x [C, D]
    positives: dict[Rule, BlockEntries]
    left_out: dict[Rule, BlockEntries]


def _blocks(
    columns: paddle.Tensor, targets: Targets, rules: Collection[Rule], chunk: int
) -> Iterator[_Block]:
    count, width = columns.shape[1:]
    columns = columns.reshape([-1, width])  # [M, V, D] -> [M * V, D], whose rows copy fast
    valid = places(targets.column_valid)
    if valid is None:
        return
    for start in range(0, valid.shape[0], chunk):
        index = valid[start : start + chunk]
        indices = [index * count + view for view in range(count)]
        views = [columns.gather(each) for each in indices]
        found = targets.entries(index, rules)
        kinds = ({rule: BlockEntries(each[k]) for rule, each in found.items()} for k in (0, 1))
        yield _Block(indices, views, *kinds)
