"""The pairs' losses by plain autograd over whole B x N logits: the readable reference."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ernie_vil2.losses.pairs import Term
from ernie_vil2.losses.targets import Rule, Targets

MASKED = -1e9  # a logit that no row sees; finite, so that no gradient is NaN
_EXP_LIMIT = 30.0  # beyond it log(1 + exp(x)) is x in float32


def plain_losses(
    rows: paddle.Tensor,
    columns: paddle.Tensor,
    scales: paddle.Tensor,
    biases: paddle.Tensor,
    targets: Targets,
    terms: list[Term],
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Loss and accuracy of each pair, for this rank's rows against the columns of all ranks.

    Args:
        rows: float32 [B, V, D], L2-normalised.
        columns: float32 [N, V, D], likewise.
        scales, biases: float32 [P], of the logits of each term; the softmax ignores its bias.
        targets: which columns are positives and negatives of each row.
        terms: the P pairs.

    Returns:
        Losses and accuracies, float32 [P] both. The mean of the losses over ranks is the loss of
        the global batch. And those of each row, float32 [2, P, B] without a gradient, of which they
        are the means over the valid rows.
    """
    row_views, column_views = rows.unbind(1), columns.unbind(1)
    rules = [targets.rule(term.sources) for term in terms]
    by_rule = {rule: _WholeLogits(targets, rule) for rule in rules}
    losses, accuracies, of_rows = [], [], []
    for p, (a, b, _, sigmoid) in enumerate(terms):
        whole = by_rule[rules[p]]
        # B scalars and not one: the gradient of one scalar times [B, D] would be added up one
        # number at a time.
        scale = scales[p].reshape([1, 1]).expand([rows.shape[0], 1])
        queries, keys = scale * row_views[a], column_views[b]
        if sigmoid:
            # The bias as one more number of each row: the gradient of an addition to [B, N] would
            # add B x N numbers one by one, with an error of 1 % at N = 32,768.
            bias = biases[p].reshape([1, 1]).expand([queries.shape[0], 1])
            queries = paddle.concat([queries, bias], axis=1)
            keys = paddle.concat([keys, paddle.ones([keys.shape[0], 1])], axis=1)
        logits = paddle.matmul(queries, keys, transpose_y=True)
        if sigmoid:
            directions = [whole.sigmoid(logits)]
        else:
            back = paddle.matmul(scale * row_views[b], column_views[a], transpose_y=True)
            directions = [whole.softmax(logits), whole.softmax(back)]
        loss, accuracy = (sum(map(whole.mean, x)) / len(x) for x in zip(*directions))
        losses.append(loss)
        accuracies.append(accuracy)
        with paddle.no_grad():
            of_rows.append(paddle.stack([sum(x) / len(x) for x in zip(*directions)]))
    return paddle.stack(losses), paddle.stack(accuracies), paddle.stack(of_rows, axis=1)


def softplus(x: paddle.Tensor) -> paddle.Tensor:
    """log(1 + exp(x)); paddle's own rounds 1 + exp(x), an error of 17 % at x = -15."""
    return x.clip(max=_EXP_LIMIT).exp().log1p() + F.relu(x - _EXP_LIMIT)


class _WholeLogits:
    """Losses and accuracies of the rows of logits [B, N], float32 [B]; their means."""

    def __init__(self, targets: Targets, rule: Rule):
        self.row_weight = targets.row_weight()
        self.positive, self.seen = targets.masks(rule)
        self.count = self.positive.astype("float32").sum(-1).clip(min=1.0)  # [B], of positives

    def mean(self, of_rows: paddle.Tensor) -> paddle.Tensor:
        """This rank's share of the mean over the valid rows of all ranks."""
        return (of_rows * self.row_weight).sum()

    def softmax(self, logits: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Mean negative log-probability of a row's positives, and accuracy."""
        logits = self._masked(logits)
        # a product with the positives' shares would keep another float32 matrix for the backward
        positive = paddle.where(self.positive, logits, paddle.zeros_like(logits)).sum(-1)  # [B]
        return logits.logsumexp(-1) - positive / self.count, self._right(logits)

    def sigmoid(self, logits: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Sum over columns of -log sigmoid(z logit), z = 1 for positives, else -1; accuracy."""
        signed = self._masked(paddle.where(self.positive, -logits, logits))
        return softplus(signed).sum(-1), self._right(self._masked(logits))

    def _masked(self, logits: paddle.Tensor) -> paddle.Tensor:
        return paddle.where(self.seen, logits, paddle.full_like(logits, MASKED))

    @paddle.no_grad()
    def _right(self, logits: paddle.Tensor) -> paddle.Tensor:
        """1 where a row's best positive beats all negatives, else 0."""
        masked = paddle.full_like(logits, MASKED)
        best_positive = paddle.where(self.positive, logits, masked).max(-1)
        best_negative = paddle.where(self.positive, masked, logits).max(-1)
        return (best_positive > best_negative).astype("float32")
