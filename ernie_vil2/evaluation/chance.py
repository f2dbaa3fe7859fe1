"""What luck does to a recall: bootstrap intervals, and what a random order would score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.checks import check_ks


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
    ks, ranks = check_ks(ks), np.asarray(ranks)
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


def random_recalls(positives: list[int], candidates: int, ks: list[int]) -> dict[str, float]:
    """Expected recalls of a random order: R@k = 1 - C(G - P, k) / C(G, k), a mean over queries."""
    count, queries = np.unique(positives, return_counts=True)
    chance = {}
    for k in ks:
        drawn = np.arange(min(k, candidates))[:, None]
        missed = np.prod(np.clip(candidates - count - drawn, 0, None) / (candidates - drawn), 0)
        chance[f"R@{k}"] = float(np.average(1 - missed, weights=queries))
    return {**chance, "mean_recall": float(np.mean(list(chance.values())))}
