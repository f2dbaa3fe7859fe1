"""An exported model's folder: what it says of itself, and what proves that it still computes it.

Read by every server and by the exporter; needs NumPy, YAML, Pillow and OpenCV, not Paddle.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.artefact import description, seal
from ernie_vil2.artefact.classifier import Classifier
from ernie_vil2.artefact.description import CLASSIFIER, DESCRIPTION, GOLDEN, SHAPES, VOCABULARY
from ernie_vil2.artefact.golden import Golden
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.data.transforms import MEAN, STD, eval_pixels, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.preprocessing import DEFAULT

TOWERS = ("image", "text")


@dataclass(frozen=True)
class Artefact:
    """What `inference.yml` in an exported model's folder says.

    Attributes:
        embed_dim: numbers of an embedding.
        logit_scale: the factor on cosines that makes logits of them.
        image_size: pixels, of a square.
        max_len: tokens of a text, [CLS] and [SEP] among them.
        vocab_size, max_positions: rows of the text tower's tables.
        mean, std: of RGB in 0..1.
        preprocess: whether the image program takes uint8 [B, S, S, 3] and normalises itself, else
            float32 [B, 3, S, S].
        lowercase: whether texts are put in lower case.
        prompts: templates for zero-shot classification.
        precisions: what the exporter measured of each one that it made.
        weights: the file that they came from and their SHA-256.
        versions: of the packages that exported.
        golden_made: "device" and "precision" that the golden vectors were made with.
        tensorrt: "max_batch" and "max_len" of the shapes that TensorRT may be given; empty where
            none were collected.
        preprocessing: what a picture goes through before the program, a key of `PREPROCESSINGS`.
        straight_quotes: whether “ and ” of texts are read as ".
        files: name -> SHA-256 of each file of the folder, empty while the exporter is still at
            work.
    """

    folder: Path
    embed_dim: int
    logit_scale: float
    image_size: int
    max_len: int
    vocab_size: int
    max_positions: int
    mean: list[float] = field(default_factory=lambda: list(MEAN))
    std: list[float] = field(default_factory=lambda: list(STD))
    preprocess: bool = False
    lowercase: bool = True
    prompts: list[str] = field(default_factory=lambda: list(description.PROMPTS))
    precisions: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    golden_made: dict[str, str] = field(default_factory=dict)
    tensorrt: dict[str, int] = field(default_factory=dict)
    preprocessing: str = DEFAULT
    straight_quotes: bool = False
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Artefact:
        """The artefact in a folder.

        Vocabulary and golden vectors are compared with their SHA-256 now, programs when they are
        asked for.

        Raises:
            UserError: none there, of another format, damaged, or with values that cannot be.
        """
        folder = Path(folder)
        path = folder / DESCRIPTION
        content = description.read(path)
        try:
            image, text = content["image"], content["text"]
            artefact = cls(
                folder,
                content["embed_dim"],
                content["logit_scale"],
                image["size"],
                text["max_len"],
                text["vocab_size"],
                text["max_positions"],
                image["mean"],
                image["std"],
                image["preprocess"],
                text["lowercase"],
                content["prompts"],
                content["precisions"],
                content["weights"],
                content["versions"],
                content["files"],
                content.get("golden", {}),  # not in all that have format 2
                content.get("tensorrt", {}),
                image.get("preprocessing", DEFAULT),  # likewise
                text.get("straight_quotes", False),  # likewise
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} lacks or misstates {error}: export the model again") from None
        description.check_values(artefact, path)
        description.check_seal(content, path)
        artefact.check(VOCABULARY, GOLDEN)
        return artefact

    def save(self) -> None:
        """Write `inference.yml`, with the SHA-256 of all other files that are in the folder now."""
        names = seal.files_below(self.folder) - {DESCRIPTION}
        content = {
            "embed_dim": self.embed_dim,
            "logit_scale": self.logit_scale,
            "weights": self.weights,
            "versions": self.versions,
            "image": {
                "size": self.image_size,
                "mean": self.mean,
                "std": self.std,
                "preprocess": self.preprocess,
                "preprocessing": self.preprocessing,
            },
            "text": {
                "vocab_file": VOCABULARY,
                "vocab_size": self.vocab_size,
                "max_len": self.max_len,
                "max_positions": self.max_positions,
                "lowercase": self.lowercase,
                "straight_quotes": self.straight_quotes,
            },
            "prompts": self.prompts,
            "precisions": self.precisions,
            "golden": self.golden_made,
            "tensorrt": self.tensorrt,
            "files": seal.hash_files(self.folder, names),
        }
        description.write(self.folder / DESCRIPTION, content)

    def check(self, *names: str) -> None:
        """Compare files, or all files of folders, with their SHA-256, once for this object.

        Raises:
            UserError: missing, changed, or none that the exporter wrote.
        """
        if not self.files:  # a draft
            return
        wanted: set[str] = set()
        for name in names:
            below = {f"{name}/{file}" for file in seal.files_below(self.folder / name)}
            below |= {file for file in self.files if file.startswith(f"{name}/")}
            wanted |= below or {name}
        seal.check_files(self.folder, self.files, wanted - self._checked)
        self._checked.update(wanted)

    def program(self, tower: str, precision: str = "fp32") -> tuple[Path, Path]:
        """The files of a tower's program and weights, compared with their SHA-256.

        Raises:
            UserError: not exported, missing, damaged.
        """
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
                self.check(
                    *(path.relative_to(self.folder).as_posix() for path in (program, weights))
                )
                return program, weights
        raise UserError(f"{stem}.pdmodel or .json, or its .pdiparams, is missing: export again")

    def shapes(self, tower: str) -> Path:
        """The file of a tower's shapes for TensorRT, compared with its SHA-256.

        Raises:
            UserError: not exported, missing, damaged.
        """
        if not self.tensorrt:
            raise UserError(
                f"{self.folder} has no shapes for TensorRT: export it with --tensorrt, on Paddle "
                "2.6"
            )
        name = f"{SHAPES}/{tower}.pbtxt"
        self.check(name)
        return self.folder / name

    def transform(self) -> Callable[[bytes | np.ndarray], np.ndarray]:
        """From one image's bytes, or RGB uint8 [H, W, 3], to what the image program takes.

        The function raises ImageError, and can be called from several threads.
        """
        if self.preprocess:
            return eval_pixels(self.image_size, self.preprocessing)
        return eval_transform(self.image_size, self.mean, self.std, self.preprocessing)

    def tokenizer(self) -> Tokenizer:
        """Texts to int64 [N, L], as in training.

        Raises:
            UserError: ids beyond the table's rows.
        """
        tokenizer = Tokenizer(
            self.folder / VOCABULARY, self.max_len, self.lowercase, self.straight_quotes
        )
        if tokenizer.vocab_size > self.vocab_size:
            raise UserError(
                f"{self.folder / VOCABULARY} has ids up to {tokenizer.vocab_size - 1}, the text "
                f"tower's table {self.vocab_size} rows: export the model again"
            )
        return tokenizer

    def golden(self) -> Golden:
        """The golden vectors.

        Raises:
            UserError: a damaged file, or one of another model.
        """
        path = self.folder / GOLDEN
        try:
            golden = Golden.load(path)
        except Exception as error:  # a damaged zip archive fails in many ways
            raise UserError(f"{path} is damaged ({error}): export the model again") from None
        for items, embeds in (
            (golden.images, golden.image_embeds),
            (golden.texts, golden.text_embeds),
        ):
            if embeds.shape != (len(items), self.embed_dim):
                raise UserError(
                    f"{path} has embeddings {list(embeds.shape)} of {len(items)} items, "
                    f"{DESCRIPTION} says {self.embed_dim} numbers: export the model again"
                )
        return golden

    def classifier(self) -> Classifier | None:
        """The zero-shot classifier that was exported with the model; None: none was.

        Raises:
            UserError: a damaged file, or one of another model.
        """
        if CLASSIFIER not in self.files:
            return None
        self.check(CLASSIFIER)
        return Classifier.load(self.folder / CLASSIFIER, self.embed_dim)
