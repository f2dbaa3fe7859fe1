"""Files of predictions, scored as evaluation.py and evaluation_tr.py of Chinese-CLIP and PaddleNLP.

`*_predictions.jsonl` has a line {"text_id": 7, "image_ids": [...]} a text, the best image first,
or a line {"image_id": 7, "text_ids": [...]} an image; `write_predictions` writes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.feature_files import lists_of_images, read_answers, read_lists
from ernie_vil2.evaluation.report import write_json

# direction -> the query's id and what was found for it, as a line of predictions names them
LINES = {"text_to_image": ("text_id", "image_ids"), "image_to_text": ("image_id", "text_ids")}


def score_predictions(
    path: Path, direction: str, answers: Path, ks: Sequence[int]
) -> dict[str, Any]:
    """The recalls of a file of predictions: a query is right at k by any right one of the first k.

    Args:
        direction: a key of `LINES`.
        answers: a `*_texts.jsonl`, whose texts, or whose images, are the queries.
        ks: how far down to look.

    Returns:
        `{"R@1": ..., "mean_recall": ..., "queries": ...}`, shares of 1.

    Raises:
        UserError: a file that cannot be read, naming the line; a query without predictions, or with
            fewer than the largest k.
    """
    right = read_answers(answers)
    if direction == "image_to_text":
        right = lists_of_images(right)
    right = {query: wanted for query, wanted in right.items() if wanted}
    if not right:
        raise UserError(f"{answers} names no image: there is nothing to score")
    name, listed = LINES[direction]
    hits, most = dict.fromkeys(ks, 0), max(ks)
    found = dict(read_lists(path, name, listed))
    for query, wanted in right.items():
        predicted = found.get(query, [])
        if len(set(predicted)) < most:
            raise UserError(
                f"{path} has {len(set(predicted))} different {listed} for {name} {query}: "
                f"expected {most} or more, the largest of Metric.ks"
            )
        for k in ks:
            hits[k] += not set(wanted).isdisjoint(predicted[:k])
    recalls = {f"R@{k}": hits[k] / len(right) for k in ks}
    mean = sum(recalls.values()) / len(recalls)
    return {**recalls, "mean_recall": mean, "queries": len(right)}


def write_score(path: Path, report: dict[str, Any]) -> None:
    """One direction of a report as the JSON of evaluation.py, in percent."""
    named = {f"r{name[2:]}": 100 * value for name, value in report.items() if name.startswith("R@")}
    mean = 100 * report["mean_recall"]
    score = {"score": mean, "mean_recall": mean, **named}
    write_json(path, {"success": True, "score": mean, "scoreJson": score})
