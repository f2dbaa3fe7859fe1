"""How an evaluation prepares a picture, by the name of whose code prepares it so.

A model is to be evaluated with what it was trained with. The one list of these names: the
configuration, the data and the artefact read it here; `data/transforms.py` does what they stand
for. It stands on the standard library alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Preprocessing(NamedTuple):
    """What is done to a picture before a model sees it.

    Attributes:
        name: of the geometry, a key of `PREPROCESSINGS`.
        mean, std: of RGB in 0..1.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


PREPROCESSINGS = {
    p.name: p
    for p in (
        # ERNIE-ViL2's preprocess_image.py: shorter side, OpenCV's bilinear, centre crop
        Preprocessing("official", IMAGENET_MEAN, IMAGENET_STD),
        # PaddleNLP's ernie-vil2.0, data_util.py: squashed to a square, Pillow's bicubic
        Preprocessing("paddlenlp", IMAGENET_MEAN, IMAGENET_STD),
        # Chinese-CLIP's image_transform: squashed to a square, Pillow's bicubic
        Preprocessing("chinese_clip", CLIP_MEAN, CLIP_STD),
        # OpenAI's and open_clip's: shorter side, Pillow's bicubic, centre crop
        Preprocessing("clip", CLIP_MEAN, CLIP_STD),
    )
}
DEFAULT = "official"


def preprocessing_of(transform: Mapping[str, Any]) -> Preprocessing:
    """What `eval`, `mean` and `std` of a `Transform` ask for.

    Where `eval` is null or absent it is the official one, and where one of the others is, it is
    that of `eval`.
    """
    named = PREPROCESSINGS[transform.get("eval") or DEFAULT]
    return Preprocessing(
        named.name,
        _floats(transform.get("mean") or named.mean),
        _floats(transform.get("std") or named.std),
    )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values))
