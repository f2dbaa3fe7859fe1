"""Golden vectors: what proves that an exported model still computes what was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_vil2.errors import UserError


@dataclass(frozen=True)
class Bound:
    """How far the embeddings of a program may be from the training model's.

    Attributes:
        difference: the most of any number of L2-normalised embeddings; None: any.
        cosine: the least of any embedding.
    """

    difference: float | None
    cosine: float = -1.0

    def __str__(self) -> str:
        """For a message."""
        cosine = f"a cosine of at least {self.cosine}"
        if self.difference is None:
            return cosine
        difference = f"a difference of at most {self.difference}"
        return difference if self.cosine == -1 else f"{difference} and {cosine}"


EXACT = Bound(1e-5)  # float32
# float32 whose products take TensorFloat-32, with 10 bits of mantissa: GPUs from Ampere on, by
# default. Base towers with emulated TF32 differ by 4.3e-5 (images) and 9.8e-5 (texts).
TF32 = Bound(1e-3, 0.9999)


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
    where: str, tower: str, embeds: np.ndarray, expected: np.ndarray, bound: Bound = EXACT
) -> float:
    """The largest difference of a tower's embeddings from its golden vectors.

    Args:
        where: what gave the embeddings, for the message.
        tower: "image" or "text", for the message.
        embeds, expected: float32 [N, D].

    Raises:
        UserError: the embeddings are not the trained model's.
    """
    difference = float(np.abs(embeds - expected).max())
    cosine = float(cosines(embeds, expected).min())
    near = bound.difference is None or difference <= bound.difference
    if not (near and cosine >= bound.cosine):  # NaN too
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
