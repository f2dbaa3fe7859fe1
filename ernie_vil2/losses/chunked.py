"""The pairs' losses over column blocks: the plain path's numbers without its B x N logits.

The forward streams over blocks of columns with a running log-sum-exp per row; the backward computes
each block's logits again, as FlashAttention does (Dao et al. 2022, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import paddle
from paddle.autograd import PyLayer

from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.plain import MASKED
from ernie_vil2.losses.running import BlockEntries, RunningLoss, running_loss
from ernie_vil2.losses.targets import Rule, Targets, places

# rows [B, V, D], columns [N, V, D], scales [P], biases [P]; or their gradients
Inputs = tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]


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

    The memory beside the inputs and their gradients is O(B x (chunk + D)) for any N.
    """
    return _Chunked.apply(rows, columns, scales, biases, targets, terms, chunk)


class _Chunked(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        rows: paddle.Tensor,
        columns: paddle.Tensor,
        scales: paddle.Tensor,
        biases: paddle.Tensor,
        targets: Targets,
        terms: list[Term],
        chunk: int,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        directions = _directions(rows, scales, biases, targets, terms)
        sums = [running_loss(d.sigmoid, rows.shape[0]) for d in directions]
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
    def backward(
        ctx: Any, upstream: paddle.Tensor, _: paddle.Tensor
    ) -> tuple[paddle.Tensor | None, ...]:
        inputs = ctx.saved_tensor()
        with paddle.amp.auto_cast(enable=False):
            gradients = _gradients(inputs, upstream, *ctx.rest)
        # paddle wants None for an input that takes no gradient
        return tuple(None if x.stop_gradient else g for x, g in zip(inputs, gradients))


def _gradients(
    inputs: Inputs,
    upstream: paddle.Tensor,
    targets: Targets,
    terms: list[Term],
    chunk: int,
    sums: list[RunningLoss],
    shares: dict[Rule, paddle.Tensor],
) -> Inputs:
    """The gradients of the whole by each input.

    Args:
        inputs: rows, columns, scales, biases.
        upstream: [P], the gradients of the whole by the losses.
        sums: each direction's, as the forward left them.
        shares: rule -> [B], 1 / the number of a row's positives.
    """
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
    targets: Targets,
    terms: list[Term],
) -> list[_Direction]:
    result = []
    for p, (a, b, sources, sigmoid) in enumerate(terms):
        rule = targets.rule(sources)
        for x, y in [(a, b)] if sigmoid else [(a, b), (b, a)]:
            result.append(_Direction(p, x, y, rows[:, x] * scales[p], biases[p], rule, sigmoid))
    return result


class _Block(NamedTuple):
    """C valid columns, and which of their entries are positives or left out, by rule."""

    indices: list[paddle.Tensor]  # V x int64 [C], into the columns as [N * V, D]
    views: list[paddle.Tensor]  # V x [C, D]
    positives: dict[Rule, BlockEntries]
    left_out: dict[Rule, BlockEntries]


def _blocks(
    columns: paddle.Tensor, targets: Targets, rules: Collection[Rule], chunk: int
) -> Iterator[_Block]:
    count, width = columns.shape[1:]
    columns = columns.reshape([-1, width])  # [N, V, D] -> [N * V, D], whose rows copy fast
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
