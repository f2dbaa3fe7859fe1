"""The loss and its gradients in float64 NumPy, from the papers' formulas, in blocks of rows.

Knows nothing of the package: no autograd, no ranks, no blocks of columns.
"""

from __future__ import annotations

import numpy as np

BLOCK = 256  # rows at a time


def contrast(rows, columns, ids, column_ids, pairs) -> dict:
    """Loss of B rows against N columns: the weighted sum over pairs of the mean over rows.

    rows, columns: [B, V, D] and [N, V, D]. ids, column_ids: int [B, K] and [N, K]; a row and a
    column that agree in any k are positives.
    pairs: tuples (a, b, weight, scale, bias), a and b positions of views; bias None for softmax.
    Returns "loss", and its gradients "rows", "columns", and of each pair "scales", "biases".
    """
    count = len(pairs)
    views = [np.ascontiguousarray(columns[:, v], "float64") for v in range(columns.shape[1])]
    to_views = [np.zeros_like(view) for view in views]
    to_rows = np.zeros(rows.shape)
    loss, to_scales, to_biases = 0.0, np.zeros(count), np.zeros(count)
    for p, (a, b, weight, scale, bias) in enumerate(pairs):
        directions = [(a, b), (b, a)] if bias is None else [(a, b)]
        share = weight / len(directions) / len(rows)
        for x, y in directions:
            for start in range(0, len(rows), BLOCK):
                block = slice(start, start + BLOCK)
                query = rows[block, x].astype("float64")
                positive = (ids[block, None] == column_ids[None]).any(-1)
                cosines = query @ views[y].T
                if bias is None:
                    value, slopes = _softmax(scale * cosines, positive)
                else:
                    value, slopes = _sigmoid(scale * cosines + bias, positive)
                loss += share * value
                slopes *= share
                to_rows[block, x] += scale * (slopes @ views[y])
                to_views[y] += scale * (slopes.T @ query)
                to_scales[p] += (slopes * cosines).sum()
                to_biases[p] += slopes.sum()
    gradients = {"rows": to_rows, "columns": np.stack(to_views, 1)}
    return {"loss": loss, **gradients, "scales": to_scales, "biases": to_biases}


def _softmax(logits, positive):
    """Sum over rows of the mean of -log p over a row's positives, and its derivatives."""
    top = logits.max(1, keepdims=True)
    odds = np.exp(logits - top)
    total = odds.sum(1, keepdims=True)
    share = positive / positive.sum(1, keepdims=True)
    value = (np.log(total) + top).sum() - (share * logits).sum()
    return value, odds / total - share


def _sigmoid(logits, positive):
    """Sum of -log sigmoid(z logit), z = 1 for positives, else -1, and its derivatives."""
    sign = np.where(positive, 1.0, -1.0)
    return np.logaddexp(0.0, -sign * logits).sum(), -sign / (1.0 + np.exp(sign * logits))
