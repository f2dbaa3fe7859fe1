"""Accuracies of zero-shot classification in plain NumPy, with intervals, and what was mistaken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_vil2.data.class_names import Class
from ernie_vil2.evaluation.chance import bootstrap_interval, random_recalls
from ernie_vil2.evaluation.retrieval import PROTOCOLS, check_protocol, rank_of_positives, top_k

_KS = (1, 5)


def evaluate_classification(
    image_embeds: np.ndarray,
    labels: np.ndarray,
    class_embeds: np.ndarray,
    classes: Sequence[Class],
    bootstrap: int = 1000,
    seed: int = 0,
    block: int = 1024,
    protocol: str = "strict",
) -> dict[str, Any]:
    """How many images have their class among the nearest, in all and of each class.

    Args:
        image_embeds: [N, D] numbers, L2-normalised by the model.
        labels: int [N], the class of each image.
        class_embeds: [C, D] numbers, of `embed_classes`.
        classes: [C].
        bootstrap: resamples of the images behind the 95 % intervals; 0: none.
        protocol: what a tie makes of the rank, see `PROTOCOLS`.

    Returns:
        A dict for JSON: `top1`, `top5`; `mean_per_class`, the mean of the top-1 of those classes
        that have images; `interval` of these and `chance`; `per_class`, a dict for each class in
        order: `class`, `name`, `images`, `top1` and `top5` (null without images), and `predicted`,
        how often which class was the nearest one, by its place in this list.

    Raises:
        UserError: as `recall_at_k`.
    """
    check_protocol(protocol)
    rank = rank_of_positives(
        image_embeds, class_embeds, labels[:, None], block, PROTOCOLS[protocol]
    )
    confusion = _confusion(labels, top_k(image_embeds, class_embeds, 1, block)[0][:, 0], classes)
    count = len(classes)
    images = np.bincount(labels, minlength=count)
    right = {k: np.bincount(labels, rank < k, minlength=count) for k in _KS}  # float64 [C]
    there = images > 0
    shares = {k: right[k][there] / images[there] for k in _KS}
    interval = {}
    if bootstrap:
        found = bootstrap_interval(rank, _KS, bootstrap, seed)
        interval = {f"top{k}": list(found[f"R@{k}"]) for k in _KS}
        interval["mean_per_class"] = _interval_of_means(images, right[1], bootstrap, seed)
    chance = random_recalls([1], count, list(_KS))
    return {
        "protocol": protocol,
        "images": len(labels),
        "classes": count,
        **{f"top{k}": float(np.mean(rank < k)) for k in _KS},
        "mean_per_class": float(shares[1].mean()),
        "interval": interval,
        "chance": {**{f"top{k}": chance[f"R@{k}"] for k in _KS}, "mean_per_class": chance["R@1"]},
        "per_class": [
            {
                "class": each.key,
                "name": each.name,
                "images": int(images[i]),
                **{f"top{k}": float(right[k][i] / images[i]) if images[i] else None for k in _KS},
                "predicted": confusion[i],
            }
            for i, each in enumerate(classes)
        ],
    }


def _interval_of_means(
    images: np.ndarray, right: np.ndarray, bootstrap: int, seed: int
) -> list[float]:
    """Of the mean over classes, over draws of all images, each weighted by 1 / its class's size.

    Draws within each class would show no spread where classes have one image each.

    Args:
        images, right: [C], how many each class has, and how many of them are right.
    """
    total, weight = images.sum(), 1 / np.maximum(images, 1)
    cells = np.concatenate([right, images - right]) / total  # an image is of a class, right or not
    rng = np.random.default_rng(seed)
    means = np.empty(bootstrap)
    for place in range(bootstrap):
        hits, misses = rng.multinomial(total, cells).reshape(2, -1)
        means[place] = hits @ weight / ((hits + misses) @ weight)
    return np.quantile(means, [0.025, 0.975]).tolist()


def _confusion(
    labels: np.ndarray, nearest: np.ndarray, classes: Sequence[Class]
) -> list[dict[str, int]]:
    """For each class how often which one was the nearest, by its place."""
    found: list[dict[str, int]] = [{} for _ in classes]
    pairs, times = np.unique(labels * len(classes) + nearest, return_counts=True)
    for pair, number in zip(pairs.tolist(), times.tolist()):
        found[pair // len(classes)][str(pair % len(classes))] = number
    return found


def mistaken(report: Mapping[str, Any], most: int) -> list[tuple[int, int, int]]:
    """(class, class it was taken for, how many images) of the most frequent mistakes."""
    found = [
        (place, int(other), number)
        for place, each in enumerate(report["per_class"])
        for other, number in each["predicted"].items()
        if int(other) != place
    ]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))[:most]


def figures(report: Mapping[str, Any]) -> list[str]:
    """The names of what a report has with interval and chance, in order."""
    return [name for name in ("top1", "top5", "mean_per_class") if name in report]
