"""Golden vectors: what proves that an exported model still computes what was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_vil2.errors import UserError

_EXACT = 1e-5  # of numbers of L2-normalised embeddings, for fp32 against the training model


@dataclass(frozen=True)
class Golden:
    """Inputs with the embeddings that the training model gave for them.

    Attributes:
        images: encoded files.
        texts: strings.
        image_embeds, text_embeds: float32 [n, D], L2-normalised.
    """

    images: list[bytes]
    texts: list[str]
    image_embeds: np.ndarray
    text_embeds: np.ndarray

    def save(self, path: Path) -> None:
        """Write all in one `.npz`."""
        lengths = [len(image) for image in self.images]
        np.savez(
            path,
            image_bytes=np.frombuffer(b"".join(self.images), np.uint8),
            image_ends=np.cumsum(lengths),
            texts=np.array(self.texts),
            image_embeds=self.image_embeds,
            text_embeds=self.text_embeds,
        )

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what `save` wrote; a damaged file raises many kinds of errors."""
        with np.load(path) as file:
            images = np.split(file["image_bytes"], file["image_ends"][:-1])
            return cls(
                [image.tobytes() for image in images],
                file["texts"].tolist(),
                file["image_embeds"],
                file["text_embeds"],
            )


def check_golden(
    where: str, tower: str, embeds: np.ndarray, expected: np.ndarray, min_cosine: float | None
) -> float:
    """The largest difference of a tower's embeddings from its golden vectors.

    Args:
        where: what gave the embeddings, for the message.
        tower: "image" or "text", for the message.
        embeds, expected: float32 [N, D].
        min_cosine: None demands a difference of at most 1e-5.

    Raises:
        UserError: the embeddings are not the trained model's.
    """
    difference = float(np.abs(embeds - expected).max())
    cosine = float(cosines(embeds, expected).min())
    if min_cosine is None:
        good, bound = difference <= _EXACT, f"a difference of at most {_EXACT}"
    else:
        good, bound = cosine >= min_cosine, f"a cosine of at least {min_cosine}"
    if not good:  # NaN too
        raise UserError(
            f"{where} gives other {tower} embeddings than the trained model (difference "
            f"{difference:.2g}, cosine {cosine:.6f}; expected {bound}): it is damaged, or this "
            "device cannot run it; export it again, or use another precision"
        )
    return difference


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row, in float64: [N, D], [N, D] -> [N]."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
