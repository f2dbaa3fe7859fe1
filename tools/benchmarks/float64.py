"""The loss and its gradients in float64 NumPy, from the papers' formulas, in blocks of rows.

Knows nothing of the package: no autograd, no ranks, no blocks of columns.
"""

from __future__ import annotations

import numpy as np

BLOCK = 256  # rows at a time


def contrast(rows, columns, views, ids, pairs) -> dict:
    """Loss of B rows against N columns: the weighted sum over pairs of the mean over rows.

    rows, columns: [B, V, D] and [N, V, D]; the rows are the first columns' records. views: names of
    the V views. ids: source -> int [N]; records that agree show the same.
    pairs: tuples (a, b, weight, scale, bias), a and b names of views; bias None for softmax.
    Returns "loss", and its gradients "rows", "columns", and of each pair "scales", "biases".
    """
    count = len(pairs)
    keys = [np.ascontiguousarray(columns[:, v], "float64") for v in range(columns.shape[1])]
    to_views = [np.zeros_like(key) for key in keys]
    to_rows = np.zeros(rows.shape)
    loss, to_scales, to_biases = 0.0, np.zeros(count), np.zeros(count)
    for p, (a, b, weight, scale, bias) in enumerate(pairs):
        directions = [(a, b), (b, a)] if bias is None else [(a, b)]
        share = weight / len(directions) / len(rows)
        for names in directions:
            x, y = map(views.index, names)
            for start in range(0, len(rows), BLOCK):
                block = np.arange(start, min(start + BLOCK, len(rows)))
                query = rows[block, x].astype("float64")
                positive, left_out = _relations(*names, ids, block, len(columns))
                cosines = query @ keys[y].T
                if bias is None:
                    value, slopes = _softmax(scale * cosines, positive, left_out)
                else:
                    value, slopes = _sigmoid(scale * cosines + bias, positive, left_out)
                loss += share * value
                slopes *= share
                to_rows[block, x] += scale * (slopes @ keys[y])
                to_views[y] += scale * (slopes.T @ query)
                to_scales[p] += (slopes * cosines).sum()
                to_biases[p] += slopes.sum()
    gradients = {"rows": to_rows, "columns": np.stack(to_views, 1)}
    return {"loss": loss, **gradients, "scales": to_scales, "biases": to_biases}


def _relations(a, b, ids, rows, count):
    """bool [B, N] of a pair of views: positives, and what is neither a positive nor a negative.

    Two images match as images alone, and are left out where a text is the same; image and text
    match by either; two texts match as texts, and are left out where the image is the same.
    """
    columns = np.arange(count)

    def same(sources):
        found = np.zeros([len(rows), count], bool)
        for source in sources:
            if source in ids:
                found |= ids[source][rows, None] == ids[source][columns]
        return found

    shown = {a[:-1], b[:-1]}
    positive = same(shown) | (rows[:, None] == columns)
    if shown == {"image"}:
        left_out = same(["text", "caption", "tags"])
    else:
        left_out = same([] if "image" in shown else ["image"])
    return positive, left_out & ~positive


def _softmax(logits, positive, left_out):
    """Sum over rows of the mean of -log p over a row's positives, and its derivatives."""
    logits = np.where(left_out, -np.inf, logits)
    top = logits.max(1, keepdims=True)
    odds = np.exp(logits - top)
    total = odds.sum(1, keepdims=True)
    share = positive / positive.sum(1, keepdims=True)
    value = (np.log(total) + top).sum() - (share * np.where(left_out, 0.0, logits)).sum()
    return value, odds / total - share


def _sigmoid(logits, positive, left_out):
    """Sum of -log sigmoid(z logit), z = 1 for positives, else -1, and its derivatives."""
    sign = np.where(positive, 1.0, -1.0)
    each = np.where(left_out, 0.0, np.logaddexp(0.0, -sign * logits))
    return each.sum(), np.where(left_out, 0.0, -sign / (1.0 + np.exp(sign * logits)))
