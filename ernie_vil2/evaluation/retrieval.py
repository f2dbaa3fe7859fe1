"""Retrieval metrics in plain NumPy: recall at k, bootstrap intervals, top k.

Ties are counted against the model, so equal embeddings must get exactly equal scores. A matrix
product cannot promise that: the order of its additions, and with it the last bits, depends on
where a row lies in a block. Every row is therefore rounded to a grid 2^-26 of its length apart (no
coarser than a float32 score is itself), on which float64 adds products without any rounding:
scores are then the same bits in every order, block size and BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ernie_vil2.errors import UserError, did_you_mean
from ernie_vil2.evaluation.chance import bootstrap_interval, random_recalls
from ernie_vil2.evaluation.checks import (
    Positives,
    check_embeddings,
    check_image_of_text,
    check_ks,
    check_positives,
)

_GALLERY_BLOCK = 8192  # gallery rows scored at a time

# How an evaluation counts, and what that makes of ties (see `rank_of_positives`):
#   strict        a tie counts against the model, so that equal embeddings find nothing
#   official      ERNIE-ViL2's eval_retri.py: each pair of text and image is a query and a candidate
#                 of its own, right for nothing but itself; equal scores do not lower the rank
#   chinese_clip  Chinese-CLIP's evaluation.py: a query counts at k when one of its right items is
#                 among the first k; equal scores stand in the order of the set
PROTOCOLS = {"strict": "against", "official": "for", "chinese_clip": "in order"}


def recall_at_k(
    query: np.ndarray,
    gallery: np.ndarray,
    positives: Positives,
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
    ks = check_ks(ks)
    return _recalls(rank_of_positives(query, gallery, positives, block), ks)


def rank_of_positives(
    query: np.ndarray,
    gallery: np.ndarray,
    positives: Positives,
    block: int = 1024,
    ties: str = "against",
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Rank of each query's best positive, int64 [Q], 0 the best.

    It is the number of gallery rows that score higher, and of those that score the same: with ties
    "against" the model all but the query's other positives, which never push one another down;
    with "for" none; "in order" those that stand before its first positive of that score.

    Args:
        own: int [Q], where the query itself stands in the gallery, which is left out there; None:
            it does not.
        query, gallery, positives, block: as in `recall_at_k`, and so are the errors.
    """
    assert ties in ("against", "for", "in order"), ties
    query, gallery = _check_pair(query, gallery)
    rows, columns = check_positives(positives, len(query), len(gallery))

    # [pairs]; a float64 sum here has the same bits as one in a matrix product (see above)
    score = np.empty(len(rows))
    for part in _slices(len(rows), _GALLERY_BLOCK):
        pair = query[rows[part]].astype(np.float64), gallery[columns[part]].astype(np.float64)
        score[part] = np.einsum("nd,nd->n", *pair)
    best = np.full(len(query), -np.inf)
    np.maximum.at(best, rows, score)
    among_best = score == best[rows]
    first = np.full(len(query), len(gallery))
    np.minimum.at(first, rows[among_best], columns[among_best])

    rank = np.zeros(len(query), np.int64)
    if ties == "against":  # the loop below counts positives too where they reach the best score
        rank -= np.bincount(rows[among_best], minlength=len(query))
    for lines, where, scores in _score_blocks(query, gallery, block):
        above = scores >= best[lines, None] if ties == "against" else scores > best[lines, None]
        if ties == "in order":
            before = np.arange(where.start, where.stop) < first[lines, None]
            above |= (scores == best[lines, None]) & before
        if own is not None:
            here = np.flatnonzero((own[lines] >= where.start) & (own[lines] < where.stop))
            above[here, own[lines][here] - where.start] = False
        rank[lines] += np.count_nonzero(above, axis=1)
    return rank


def top_k(
    query: np.ndarray, gallery: np.ndarray, k: int, block: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """The k best gallery rows of each query: indices int64 [Q, k] and scores float64 [Q, k].

    Best first; of equal scores the lower index first. A k beyond the gallery is cut to its size.
    Errors as in `recall_at_k`.
    """
    (k,) = check_ks([k])
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


def evaluate_retrieval(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    image_of_text: Sequence,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    block: int = 1024,
    protocol: str = "strict",
) -> dict:
    """Both directions of image-text retrieval, with any number of texts per image and of images
    per text.

    Args:
        image_embeds: [N, D] numbers, L2-normalised by the model.
        text_embeds: [M, D] numbers, likewise.
        image_of_text: for each text the row of the image that it describes, or a list of rows,
            which may be empty. A text without an image and an image without a text are
            candidates, but no queries.
        bootstrap: resamples behind the 95 % intervals; 0 leaves `interval` empty.
        seed: of the resamples.
        protocol: how a query's rank is counted, see `PROTOCOLS`.

    Returns:
        A dict for JSON: `protocol`; `image_to_text` and `text_to_image`, each with `R@k`,
        `mean_recall`, `mrr` (the mean of 1 / rank), `median_rank` (1 is the best), `interval` (of
        R@k and mean_recall, [low, high]), `queries`, `candidates`, `chance` (what a random order
        would score); and `mean_recall`, the mean of both directions.

    Raises:
        UserError: as `recall_at_k`; an unknown protocol; no pair to score.
    """
    ks = check_ks(ks)
    check_protocol(protocol)
    embeds = dict(zip(("image", "text"), check_embeddings(image=image_embeds, text=text_embeds)))
    texts, images = check_image_of_text(image_of_text, len(embeds["text"]), len(embeds["image"]))
    pairs = {"image": images, "text": texts}

    def direction(source: str, target: str) -> dict:
        positives: Positives
        if protocol == "official":
            queries, positives = pairs[source], np.arange(len(images))[:, None]
            alone = np.setdiff1d(np.arange(len(embeds[target])), pairs[target])
            gallery = embeds[target][np.concatenate([pairs[target], alone])]
            groups = images
        else:
            order = np.argsort(pairs[source], kind="stable")
            queries, starts = np.unique(pairs[source][order], return_index=True)
            positives, gallery = np.split(pairs[target][order], starts[1:]), embeds[target]
            groups = images[order][starts]  # of a text with several images, the first
        query = embeds[source][queries]
        rank = rank_of_positives(query, gallery, positives, block, PROTOCOLS[protocol])
        sizes = [len(each) for each in positives]
        return report_of_ranks(rank, groups, sizes, len(gallery), ks, bootstrap, seed)

    report = {
        "image_to_text": direction("image", "text"),
        "text_to_image": direction("text", "image"),
    }
    mean_recall = sum(each["mean_recall"] for each in report.values()) / 2
    return {"protocol": protocol, **report, "mean_recall": mean_recall}


def report_of_ranks(
    rank: np.ndarray,
    groups: np.ndarray,
    positives: list[int],
    candidates: int,
    ks: list[int],
    bootstrap: int,
    seed: int,
) -> dict:
    """What `evaluate_retrieval` says of a direction.

    Args:
        rank: int [Q], of `rank_of_positives`.
        groups: int [Q], queries that are drawn together, see `bootstrap_interval`.
        positives: how many each query has.
    """
    interval = bootstrap_interval(rank, ks, bootstrap, seed, groups=groups) if bootstrap else {}
    return {
        **_recalls(rank, ks),
        "mrr": float(np.mean(1 / (rank + 1))),
        "median_rank": float(np.median(rank)) + 1,
        "interval": {name: list(ends) for name, ends in interval.items()},
        "queries": len(rank),
        "candidates": candidates,
        "chance": random_recalls(positives, candidates, ks),
    }


def check_protocol(protocol: str) -> None:
    """Raises UserError for a name that is not in `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise UserError(f'no protocol "{protocol}"{did_you_mean(protocol, PROTOCOLS)}')


def _check_pair(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both on the grid, after every check of their shapes and numbers."""
    query, gallery = check_embeddings(query=query, gallery=gallery)
    return _on_grid(query), _on_grid(gallery)


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
