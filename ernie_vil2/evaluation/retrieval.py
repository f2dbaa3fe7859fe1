"""Retrieval metrics in plain NumPy: recall at k, bootstrap intervals, top k.

Ties are counted against the model, so equal embeddings must get exactly equal scores. A matrix
product cannot promise that: the order of its additions, and with it the last bits, depends on
where a row lies in a block. Every row is therefore rounded to a grid 2^-26 of its length apart (no
coarser than a float32 score is itself), on which float64 adds products without any rounding:
scores are then the same bits in every order, block size and BLAS.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from ernie_vil2.errors import UserError

_GALLERY_BLOCK = 8192  # gallery rows scored at a time


def recall_at_k(
    query: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[Sequence[int]],
    ks: Sequence[int] = (1, 5, 10),
    block: int = 1024,
) -> dict[str, float]:
    """Share of queries with a positive among the k best-scored gallery rows; ties count against it.

    Args:
        query: [Q, D] numbers, used as float32; the score is the dot product.
        gallery: [G, D] numbers, used as float32.
        positives: for each query the indices of its right gallery rows, at least one.
        ks: how far down to look; a k beyond the gallery finds everything.
        block: queries scored at a time; memory is O(block * (D + 8192)), never Q x G.

    Returns:
        `{"R@1": ..., "mean_recall": ...}`, each in 0..1; `mean_recall` is the mean over `ks`.

    Raises:
        UserError: NaN or infinity, widths that differ, a query without a positive, an index
            outside the gallery, a k or block below 1.
    """
    ks = _check_ks(ks)
    return _recalls(rank_of_positives(query, gallery, positives, block), ks)


def rank_of_positives(
    query: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[Sequence[int]],
    block: int = 1024,
) -> np.ndarray:
    """Rank of each query's best positive, int64 [Q], 0 the best.

    It is the number of other gallery rows that score at least as high; the query's further
    positives don't push it down. Arguments and errors as in `recall_at_k`.
    """
    query, gallery = _check_pair(query, gallery)
    rows, columns = _flatten(positives, len(query), len(gallery))

    # [pairs]; a float64 sum here has the same bits as one in a matrix product (see above)
    score = np.empty(len(rows))
    for part in _slices(len(rows), _GALLERY_BLOCK):
        pair = query[rows[part]].astype(np.float64), gallery[columns[part]].astype(np.float64)
        score[part] = np.einsum("nd,nd->n", *pair)
    best = np.full(len(query), -np.inf)
    np.maximum.at(best, rows, score)

    # the loop below counts positives too where they reach the best one's score
    rank = -np.bincount(rows[score == best[rows]], minlength=len(query)).astype(np.int64)
    for lines, _, scores in _score_blocks(query, gallery, block):
        rank[lines] += np.count_nonzero(scores >= best[lines, None], axis=1)
    return rank


def top_k(
    query: np.ndarray, gallery: np.ndarray, k: int, block: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """The k best gallery rows of each query: indices int64 [Q, k] and scores float64 [Q, k].

    Best first; of equal scores the lower index first. A k beyond the gallery is cut to its size.
    Errors as in `recall_at_k`.
    """
    (k,) = _check_ks([k])
    query, gallery = _check_pair(query, gallery)
    k = min(k, len(gallery))
    indices = np.empty((len(query), k), np.int64)
    values = np.empty((len(query), k))
    for lines, columns, scores in _score_blocks(query, gallery, block):
        found = np.broadcast_to(np.arange(columns.start, columns.stop), scores.shape)
        if columns.start:  # those kept so far come first: their indices are lower
            kept = min(k, columns.start)
            scores = np.concatenate([values[lines, :kept], scores], axis=1)
            found = np.concatenate([indices[lines, :kept], found], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        indices[lines, : order.shape[1]] = np.take_along_axis(found, order, axis=1)
        values[lines, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    return indices, values


def bootstrap_interval(
    ranks: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over queries: (low, high) for each R@k and `mean_recall`.

    Args:
        ranks: int [Q], from `rank_of_positives`.
        resamples: how many sets of queries are drawn, at least 1.
        level: the share of resamples that lies inside the interval, in (0, 1).
        groups: int [Q]; queries of one group are drawn together. Captions of one image are not
            independent: drawn one by one their interval would come out too narrow.
    """
    ks, ranks = _check_ks(ks), np.asarray(ranks)
    if not len(ranks) or resamples < 1 or not 0 < level < 1:
        raise UserError(
            f"{len(ranks)} ranks, {resamples} resamples, level {level}: a bootstrap interval needs "
            "at least one rank and one resample, and a level between 0 and 1"
        )
    _, group = np.unique(np.arange(len(ranks)) if groups is None else groups, return_inverse=True)
    size = np.bincount(group)
    hits = np.stack([np.bincount(group, ranks < k) for k in ks], axis=1)  # [groups, ks]

    generator = np.random.default_rng(seed)
    recalls = np.empty((resamples, len(ks)))
    for row in recalls:
        times = np.bincount(generator.integers(len(size), size=len(size)), minlength=len(size))
        row[:] = times @ hits / (times @ size)
    recalls = np.column_stack([recalls, recalls.mean(axis=1)])
    low, high = np.quantile(recalls, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    return dict(zip([*(f"R@{k}" for k in ks), "mean_recall"], zip(low, high)))


def evaluate_retrieval(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    image_of_text: Sequence[int],
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    block: int = 1024,
) -> dict:
    """Both directions of image-text retrieval, with any number of captions per image.

    Args:
        image_embeds: [N, D] numbers, L2-normalised by the model.
        text_embeds: [M, D] numbers, likewise.
        image_of_text: int [M], the row of the image that each text describes.
        bootstrap: resamples behind the 95 % intervals; 0 leaves `interval` empty.
        seed: of the resamples.

    Returns:
        A dict for JSON: `image_to_text` and `text_to_image`, each with `R@k`, `mean_recall`,
        `median_rank` (1 is the best), `interval` (of R@k and mean_recall, [low, high]), `queries`,
        `candidates`, `chance` (what a random order would score); and `mean_recall`, the mean of
        both directions. An image without a text is a candidate, but no query.

    Raises:
        UserError: as `recall_at_k`.
    """
    ks = _check_ks(ks)
    image_embeds, text_embeds = np.asarray(image_embeds), np.asarray(text_embeds)
    image_of_text = np.asarray(image_of_text)
    if image_of_text.shape != text_embeds.shape[:1] or image_of_text.dtype.kind not in "iu":
        raise UserError(
            f"image_of_text is {image_of_text.dtype} {list(image_of_text.shape)} for texts "
            f"{list(text_embeds.shape)}: one integer for each text is needed"
        )
    # [M] text indices, one image's after another's; a split for each image that has a text
    by_image = np.argsort(image_of_text, kind="stable")
    images, starts = np.unique(image_of_text[by_image], return_index=True)
    if len(images) and not 0 <= images[0] <= images[-1] < len(image_embeds):
        wrong = images[0] if images[0] < 0 else images[-1]
        raise UserError(f"image_of_text has {wrong}: expected 0 to {len(image_embeds) - 1}")

    def direction(query, gallery, positives, groups):
        rank = rank_of_positives(query, gallery, positives, block)
        interval = bootstrap_interval(rank, ks, bootstrap, seed, groups=groups) if bootstrap else {}
        return {
            **_recalls(rank, ks),
            "median_rank": float(np.median(rank)) + 1,
            "interval": {name: list(ends) for name, ends in interval.items()},
            "queries": len(query),
            "candidates": len(gallery),
            "chance": _chance([len(each) for each in positives], len(gallery), ks),
        }

    report = {
        "image_to_text": direction(
            image_embeds[images], text_embeds, np.split(by_image, starts[1:]), None
        ),
        "text_to_image": direction(
            text_embeds, image_embeds, image_of_text[:, None], image_of_text
        ),
    }
    report["mean_recall"] = sum(each["mean_recall"] for each in report.values()) / 2
    return report


def _on_grid(rows: np.ndarray) -> np.ndarray:
    """float32 [N, D], each row rounded to multiples of a power of two, about 2^-26 of its norm.

    A rounded row is shorter than 2^26.5 steps, so by Cauchy-Schwarz no partial sum of a product of
    two reaches 2^53 steps, below which float64 holds every integer.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    norm = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    # frexp's step lies at powers of two; 0.75 keeps rows of norm 1 +- rounding away from it
    _, exponent = np.frexp(0.75 * norm)
    grid = np.ldexp(rows, 26 - exponent[:, None])
    np.rint(grid, out=grid)
    return np.ldexp(grid, exponent[:, None] - 26, out=grid)


def _score_blocks(
    query: np.ndarray, gallery: np.ndarray, block: int
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """(query rows, gallery rows, their scores float64), each query block's gallery in order."""
    if block < 1:
        raise UserError(f"block is {block}: expected 1 or more queries at a time")
    for lines in _slices(len(query), block):
        left = query[lines].astype(np.float64)
        for columns in _slices(len(gallery), _GALLERY_BLOCK):
            yield lines, columns, left @ gallery[columns].astype(np.float64).T


def _slices(length: int, block: int) -> Iterator[slice]:
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def _recalls(rank: np.ndarray, ks: list[int]) -> dict[str, float]:
    recalls = {f"R@{k}": float(np.mean(rank < k)) for k in ks}
    return {**recalls, "mean_recall": float(np.mean(list(recalls.values())))}


def _chance(positives: list[int], candidates: int, ks: list[int]) -> dict[str, float]:
    """Expected recalls of a random order: R@k = 1 - C(G - P, k) / C(G, k), a mean over queries."""
    count, queries = np.unique(positives, return_counts=True)
    chance = {}
    for k in ks:
        drawn = np.arange(min(k, candidates))[:, None]
        missed = np.prod(np.clip(candidates - count - drawn, 0, None) / (candidates - drawn), 0)
        chance[f"R@{k}"] = float(np.average(1 - missed, weights=queries))
    return {**chance, "mean_recall": float(np.mean(list(chance.values())))}


def _check_ks(ks: Sequence[int]) -> list[int]:
    try:
        checked = sorted({operator.index(k) for k in ks})
    except TypeError:
        checked = []
    if not checked or checked[0] < 1:
        raise UserError(f"k is {ks}: expected whole numbers of 1 or more, as in (1, 5, 10)")
    return checked


def _check_pair(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both on the grid, after every check of their shapes and numbers."""
    pair = {"query": np.asarray(query), "gallery": np.asarray(gallery)}
    for name, rows in pair.items():
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiub":
            raise UserError(
                f"{name} is {rows.dtype} {list(rows.shape)}: expected numbers [rows, width], "
                "at least one row"
            )
    if pair["query"].shape[1] != pair["gallery"].shape[1]:
        raise UserError(
            f"query rows hold {pair['query'].shape[1]} numbers, gallery rows "
            f"{pair['gallery'].shape[1]}: embed both with one model"
        )
    for name, rows in pair.items():
        with np.errstate(over="ignore"):
            rows = pair[name] = rows.astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise UserError(
                f"{name} row {bad[0]} holds NaN or infinity ({len(bad)} of {len(rows)} rows do): "
                "the model diverged, load an earlier checkpoint"
            )
    return _on_grid(pair["query"]), _on_grid(pair["gallery"])


def _flatten(
    positives: Sequence[Sequence[int]], queries: int, candidates: int
) -> tuple[np.ndarray, np.ndarray]:
    """(query index, gallery index), int64 [pairs] each, no pair twice."""
    if len(positives) != queries:
        raise UserError(f"{len(positives)} lists of positives for {queries} queries: one for each")
    try:
        count = np.fromiter(map(len, positives), np.int64, queries)
        columns = np.fromiter(map(operator.index, chain.from_iterable(positives)), np.int64)
    except TypeError as error:
        raise UserError(f"positives: expected a list of whole numbers per query: {error}") from None
    if not count.all():
        raise UserError(f"query {np.argmin(count)} has no positive: leave it out of the queries")
    rows = np.repeat(np.arange(queries), count)
    bad = np.flatnonzero((columns < 0) | (columns >= candidates))
    if len(bad):
        raise UserError(
            f"query {rows[bad[0]]} has the positive {columns[bad[0]]}: the gallery's rows are 0 to "
            f"{candidates - 1}"
        )
    pair = np.unique(rows * candidates + columns)
    return pair // candidates, pair % candidates
