"""An exported model's folder: what it says of itself, and what proves that it still computes it.

Read by every server and by the exporter; needs NumPy, YAML, Pillow and OpenCV, not Paddle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import MEAN, STD, eval_pixels, eval_transform
from ernie_vil2.errors import UserError

FORMAT = 1
DESCRIPTION, VOCABULARY, GOLDEN = "inference.yml", "vocab.txt", "golden.npz"
TOWERS = ("image", "text")
_EXACT = 1e-5  # of numbers of L2-normalised embeddings, for fp32 against the training model
# Of each template a text is made with a label in place of {}; a label's embedding is their mean.
PROMPTS = ("{}", "一张{}的图片", "a photo of {}", "a picture of {}")


@dataclass(frozen=True)
class Golden:
    """Inputs with the embeddings that the training model gave for them.

    images: encoded files; texts: str; image_embeds, text_embeds: float32 [n, D], L2-normalised.
    """

    images: list[bytes]
    texts: list[str]
    image_embeds: np.ndarray
    text_embeds: np.ndarray

    def save(self, path: Path) -> None:
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
        with np.load(path) as file:
            images = np.split(file["image_bytes"], file["image_ends"][:-1])
            return cls(
                [image.tobytes() for image in images],
                file["texts"].tolist(),
                file["image_embeds"],
                file["text_embeds"],
            )


@dataclass(frozen=True)
class Artefact:
    """What `inference.yml` in an exported model's folder says.

    embed_dim: numbers of an embedding; logit_scale: the factor on cosines that makes logits of
    them; image_size: pixels, of a square; mean, std: of RGB in 0..1; preprocess: whether the
    image program takes uint8 [B, S, S, 3] and normalises itself, else float32 [B, 3, S, S];
    max_len: tokens of a text, [CLS] and [SEP] among them; prompts: templates for zero-shot
    classification; precisions: what the exporter measured of each one that it made; weights:
    the file that they came from and their SHA-256; versions: of the packages that exported.
    """

    folder: Path
    embed_dim: int
    logit_scale: float
    image_size: int
    max_len: int
    mean: list[float] = field(default_factory=lambda: list(MEAN))
    std: list[float] = field(default_factory=lambda: list(STD))
    preprocess: bool = False
    lowercase: bool = True
    prompts: list[str] = field(default_factory=lambda: list(PROMPTS))
    precisions: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder) -> Artefact:
        """The artefact in a folder. Raises UserError: none there, or damaged."""
        folder = Path(folder)
        path = folder / DESCRIPTION
        if not path.is_file():
            raise UserError(
                f"{folder} holds no {DESCRIPTION}: expected the folder that tools/export.py wrote"
            )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise UserError(
                    f"{path} has format {content['format']}, this version reads {FORMAT}: "
                    "export the model again"
                )
            image, text = content["image"], content["text"]
            artefact = cls(
                folder,
                int(content["embed_dim"]),
                float(content["logit_scale"]),
                int(image["size"]),
                int(text["max_len"]),
                list(map(float, image["mean"])),
                list(map(float, image["std"])),
                bool(image["preprocess"]),
                bool(text["lowercase"]),
                list(map(str, content["prompts"])),
                dict(content["precisions"]),
                dict(content["weights"]),
                dict(content["versions"]),
            )
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} lacks or misstates {error}: export the model again") from None
        for name in (VOCABULARY, GOLDEN):
            if not (folder / name).is_file():
                raise UserError(f"{folder} lacks {name}: export or copy the model again")
        return artefact

    def save(self) -> None:
        """Write `inference.yml`."""
        every = asdict(self)
        content = {
            "format": FORMAT,
            **{name: every[name] for name in ("embed_dim", "logit_scale", "weights", "versions")},
            "image": {
                "size": self.image_size,
                "mean": self.mean,
                "std": self.std,
                "preprocess": self.preprocess,
            },
            "text": {
                "vocab_file": VOCABULARY,
                "max_len": self.max_len,
                "lowercase": self.lowercase,
            },
            "prompts": self.prompts,
            "precisions": self.precisions,
        }
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (self.folder / DESCRIPTION).write_text(text, encoding="utf-8")

    def program(self, tower: str, precision: str = "fp32") -> tuple[Path, Path]:
        """The files of a tower's program and weights. Raises UserError if it was not exported."""
        if precision not in self.precisions:
            raise UserError(
                f"{self.folder} has no precision {precision}: expected one of "
                f"{', '.join(self.precisions)}, or export it with --precision {precision}"
            )
        # bfloat16 and float16 are ways to run fp32's program
        stem = self.folder / ("int8" if precision == "int8" else "fp32") / tower
        for suffix in (".pdmodel", ".json"):
            program, weights = stem.with_suffix(suffix), stem.with_suffix(".pdiparams")
            if program.is_file() and weights.is_file():
                return program, weights
        raise UserError(f"{stem}.pdmodel or .json, or its .pdiparams, is missing: export again")

    def transform(self) -> Callable[[bytes | np.ndarray], np.ndarray]:
        """From one image's bytes, or RGB uint8 [H, W, 3], to what the image program takes.

        The function raises ImageError, and can be called from several threads.
        """
        if self.preprocess:
            return eval_pixels(self.image_size)
        return eval_transform(self.image_size, self.mean, self.std)

    def tokenizer(self) -> Tokenizer:
        """Texts to int64 [N, L], as in training."""
        return Tokenizer(self.folder / VOCABULARY, self.max_len, self.lowercase)

    def golden(self) -> Golden:
        """Raises UserError for a damaged file."""
        path = self.folder / GOLDEN
        try:
            return Golden.load(path)
        except Exception as error:  # a damaged zip archive fails in many ways
            raise UserError(f"{path} is damaged ({error}): export the model again") from None


def check_prompts(prompts: list[str], where: str) -> list[str]:
    """The templates. Raises UserError for none, or for one without exactly one `{}`."""
    if not prompts:
        raise UserError(f"{where} has no prompt template: expected at least one, as in {{}}")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise UserError(f"prompt template {prompt[:60]!r} in {where}: expected {{}} once")
    return prompts


def check_golden(
    where: str, tower: str, embeds: np.ndarray, expected: np.ndarray, min_cosine: float | None
) -> float:
    """The largest difference of a tower's embeddings [N, D] from its golden vectors.

    where: what gave them, for the message; min_cosine: None demands a difference of at most 1e-5.
    Raises UserError for others than the trained model's.
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
