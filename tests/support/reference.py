"""The multi-view loss and its gradients in float64 NumPy, from the papers' formulas.

Knows nothing of the package: no autograd, no ranks, no blocks.
"""

import numpy as np


def unit_rows(rows, dim, seed):
    """float64 [rows, dim], L2-normalised."""
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


TEXTS = ("text", "caption", "tags")


def relation(a, b, ids, i, j):
    """Of view a of record i to view b of record j: 1 positive, -1 negative, 0 neither.

    ids: source -> numbers [B]; a source that is missing holds no two equal records.
    """

    def same(source):
        return source in ids and ids[source][i] == ids[source][j]

    if i == j:
        return 1
    x, y = (view[:-1] for view in (a, b))
    if x == y == "image":
        if same("image"):
            return 1
        return 0 if any(same(text) for text in TEXTS) else -1
    if "image" in (x, y):
        text = y if x == "image" else x
        return 1 if same("image") or same(text) else -1
    if same(x) or same(y):
        return 1
    return 0 if same("image") else -1


def relations(a, b, ids, rows):
    """int [B, B], the matrix of `relation`."""
    return np.array([[relation(a, b, ids, i, j) for j in range(rows)] for i in range(rows)])


def softmax_one_way(x, y, scale, related, valid, anchors):
    """Cross-entropy of x's rows over y's: loss, accuracy, gradients of x, y and scale."""
    count = max(valid.sum(), 1)
    loss, right, dx, dy, dscale = 0.0, 0.0, np.zeros_like(x), np.zeros_like(y), 0.0
    for i in np.flatnonzero(anchors):
        columns = np.flatnonzero(valid & (related[i] != 0))
        cosines = y[columns] @ x[i]
        logits, positive = scale * cosines, related[i, columns] == 1
        odds = np.exp(logits - logits.max())
        log_total = np.log(odds.sum()) + logits.max()
        loss += np.mean(log_total - logits[positive]) / count
        right += (logits[positive].max() > logits[~positive].max(initial=-np.inf)) / count
        slopes = (odds / odds.sum() - positive / positive.sum()) / count
        dx[i] += scale * slopes @ y[columns]
        dy[columns] += scale * np.outer(slopes, x[i])
        dscale += slopes @ cosines
    return loss, right, dx, dy, dscale


def softmax_pair(a, b, scale, related, valid, anchors):
    """Symmetric multi-positive InfoNCE: loss, accuracy, gradients of a, b, scale and bias (0)."""
    ab = softmax_one_way(a, b, scale, related, valid, anchors)
    ba = softmax_one_way(b, a, scale, related.T, valid, anchors)
    loss, right, dscale = ((ab[k] + ba[k]) / 2 for k in (0, 1, 4))
    return loss, right, (ab[2] + ba[3]) / 2, (ab[3] + ba[2]) / 2, dscale, 0.0


def sigmoid_pair(a, b, scale, bias, related, valid, anchors):
    """SigLIP's loss: loss, accuracy of a's rows, gradients of a, b, scale and bias."""
    count = max(valid.sum(), 1)
    loss, right, da, db, dscale, dbias = 0.0, 0.0, np.zeros_like(a), np.zeros_like(b), 0.0, 0.0
    for i in np.flatnonzero(anchors):
        columns = np.flatnonzero(valid & (related[i] != 0))
        cosines, positive = b[columns] @ a[i], related[i, columns] == 1
        sign = np.where(positive, 1.0, -1.0)
        logits = scale * cosines + bias
        loss += np.logaddexp(0.0, -sign * logits).sum() / count
        right += (logits[positive].max() > logits[~positive].max(initial=-np.inf)) / count
        slopes = -sign / (1.0 + np.exp(sign * logits)) / count
        da[i] += scale * slopes @ b[columns]
        db[columns] += scale * np.outer(slopes, a[i])
        dscale += slopes @ cosines
        dbias += slopes.sum()
    return loss, right, da, db, dscale, dbias


def multi_view(embeds, pairs, ids=None, valid=None, anchors=None):
    """The weighted sum over pairs, for the whole global batch at once.

    embeds: view -> [B, D]. pairs: tuples (a, b, weight, scale, bias), bias None for softmax.
    ids: source -> numbers [B]; valid: bool [B]; anchors: bool [B], the valid rows whose losses are
    added up, all unless given, and still divided by the number of all valid rows.
    Returns "loss", "<a>-<b>", "<a>-<b>/accuracy", and gradients of "loss" with respect to
    "embeds" (a dict), and of each pair's scale and bias as "<a>-<b>/scale", "<a>-<b>/bias".
    """
    batch = len(next(iter(embeds.values())))
    valid = np.ones(batch, dtype=bool) if valid is None else valid
    anchors = valid if anchors is None else anchors & valid
    result = {"loss": 0.0, "embeds": {v: np.zeros_like(x, "float64") for v, x in embeds.items()}}
    for a, b, weight, scale, bias in pairs:
        x, y, name = embeds[a], embeds[b], f"{a}-{b}"
        related = relations(a, b, ids or {}, batch)
        if bias is None:
            values = softmax_pair(x, y, scale, related, valid, anchors)
        else:
            values = sigmoid_pair(x, y, scale, bias, related, valid, anchors)
        loss, result[f"{name}/accuracy"], da, db, dscale, dbias = values
        result[name] = loss
        result["loss"] += weight * loss
        result["embeds"][a] += weight * da
        result["embeds"][b] += weight * db
        result[f"{name}/scale"], result[f"{name}/bias"] = weight * dscale, weight * dbias
    return result


def relative_error(value, expected):
    """The largest difference, as a share of the largest expected number."""
    expected = np.asarray(expected, "float64")
    return np.abs(np.asarray(value, "float64") - expected).max() / np.abs(expected).max()
