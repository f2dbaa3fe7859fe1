"""Which model vectors are of, so that those of two models never meet in one collection."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ernie_vil2.artefact.description import VOCABULARY
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.files import durable
from ernie_vil2.preprocessing import DEFAULT


def model_identity(artefact: Artefact) -> dict[str, Any]:
    """SHA-256 of all that decides what an exported model's vectors mean; plain JSON values.

    Of one model it is the same whatever its folder is called, on whatever device and in whatever
    precision it runs, and whether its program normalises the pixels itself: the exporter has
    measured that such vectors are near enough to be compared.

    Returns:
        "weights": over names, shapes and float32 values, as the exporter wrote it down;
        "vocabulary": of the file; "transform": of size, mean, standard deviation and the
        name of the preprocessing.
    """
    folder = artefact.folder
    transform: list[Any] = [artefact.image_size, artefact.mean, artefact.std]
    if artefact.preprocessing != DEFAULT:  # else as before there was a choice
        transform.append(artefact.preprocessing)
    return {
        "weights": artefact.weights["sha256"],
        "vocabulary": artefact.files.get(VOCABULARY) or durable.sha256(folder / VOCABULARY),
        "transform": hashlib.sha256(json.dumps(transform).encode()).hexdigest(),
    }
