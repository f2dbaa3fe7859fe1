"""Zero-shot classification in plain NumPy: a label's embedding is the mean of its prompts'.

A prompt is a template with the label in it; an image gets the label whose embedding is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ernie_vil2.errors import UserError

PLACE = "{}"  # of the label in a template; no other sign in a template or label is interpreted


def fill_templates(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """The prompts of each label in turn: labels times templates.

    Args:
        labels: L strings.
        templates: T strings, each with PLACE once.

    Raises:
        UserError: as `check_template`.
    """
    for template in templates:
        check_template(template)
    return [template.replace(PLACE, label) for label in labels for template in templates]


def check_template(template: str) -> None:
    """Raises UserError for a template without PLACE, or with several."""
    if template.count(PLACE) != 1:
        raise UserError(f"template {template[:60]!r}: expected {PLACE} once")


def label_embeddings(prompts: np.ndarray) -> np.ndarray:
    """The mean of each label's prompts, normalised.

    Args:
        prompts: float32 [L, T, D], L2-normalised.

    Returns:
        float32 [L, D]; rows of 0 for a label whose prompts add up to nothing.
    """
    labels = prompts.mean(axis=1)  # [L, T, D] -> [L, D]
    labels /= np.maximum(np.linalg.norm(labels, axis=1, keepdims=True), 1e-12)
    return labels


def probabilities(cosine: np.ndarray, logit_scale: float) -> np.ndarray:
    """Of each label, float64 [..., L], for an image's cosines with the labels [..., L]."""
    return softmax(logit_scale * cosine.astype(np.float64))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
