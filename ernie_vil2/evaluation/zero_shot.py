"""The classifier that texts make: for each class the mean of its prompts' embeddings.

As CLIP's `zeroshot_classifier` (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb) and
Chinese-CLIP's (cn_clip/eval/zeroshot_evaluation.py): each prompt's embedding is normalised, then
the mean of a class's. 1,000 classes with 183 templates are 183,000 texts, so it is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.classification import fill_templates, label_embeddings
from ernie_vil2.files.durable import replacing
from ernie_vil2.files.user_cache import user_cache

log = logging.getLogger("ernie_vil2")
_AT_ONCE = 1024  # prompts

EmbedTexts = Callable[[Sequence[str]], np.ndarray]  # texts -> float32 [N, D], L2-normalised


def embed_classes(
    names: Sequence[str],
    templates: Sequence[str],
    embed: EmbedTexts,
    progress: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """float32 [C, D], L2-normalised.

    Args:
        names: of the classes.
        templates: each with `{}` once; one that is there twice counts twice.
        embed: of texts.
        progress: called now and then.

    Raises:
        UserError: a template without `{}`.
    """
    step = max(1, _AT_ONCE // len(templates))
    parts = []
    for start in range(0, len(names), step):
        some = names[start : start + step]
        prompts = embed(fill_templates(some, templates))  # [C * T, D]
        parts.append(label_embeddings(prompts.reshape(len(some), len(templates), -1)))
        progress()
    return np.concatenate(parts)


def kept_classes(
    names: Sequence[str],
    templates: Sequence[str],
    embed: EmbedTexts,
    identity: Mapping[str, Any] | None,
    folder: Path | None = None,
) -> np.ndarray:
    """`embed_classes`, from a file where they were embedded before.

    Args:
        identity: what an embedding depends on beside its text: the weights, the vocabulary; None:
            not known, so that nothing is kept.
        folder: of the files; None: ernie_vil2/classifiers in the user's cache folder.
    """
    if not identity:
        return embed_classes(names, templates, embed)
    content = {**identity, "names": list(names), "templates": list(templates)}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path = (folder or user_cache() / "classifiers") / f"{key}.npy"
    found = _read(path, len(names))
    if found is None:
        found = embed_classes(names, templates, embed)
        try:
            with replacing(path) as draft, open(draft, "wb") as file:
                np.save(file, found)
        except (OSError, UserError) as error:  # a full disk costs time, not the figures
            log.warning("the classifier is not kept: %s", error)
    return found


def _read(path: Path, classes: int) -> np.ndarray | None:
    """What `path` holds, if it is a classifier of so many classes."""
    try:
        found = np.load(path)
    except (OSError, ValueError, EOFError):  # none yet, or damaged
        return None
    whole = found.ndim == 2 and len(found) == classes and found.dtype == np.float32
    return found if whole and np.isfinite(found).all() else None
