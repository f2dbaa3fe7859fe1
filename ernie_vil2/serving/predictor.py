"""An exported model on Paddle Inference: images and strings in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ernie_vil2 import runtime
from ernie_vil2.artefact.classifier import most_probable
from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.data.decode import rgb_pixels
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.classification import probabilities
from ernie_vil2.evaluation.zero_shot import embed_classes
from ernie_vil2.serving import fork
from ernie_vil2.serving.tower import Tower, TowerOptions


class Predictor:
    """The two programs of an artefact.

    Threads may share it: each program runs one batch at a time, on all its own threads. The
    children of a `fork` may share it too, except on a GPU, whose state they cannot use.

    Args:
        folder: that tools/export.py wrote.
        precision: one that was exported: "fp32", "bf16" (CPUs with AVX512-BF16, GPUs from Ampere
            on), "int8" (CPU), "fp16" (GPU).
        device: "cpu", "gpu" or "gpu:1".
        threads: of the CPU; None: all usable cores.
        batch_size: most items of one run.
        tensorrt: let TensorRT run what it can, on a GPU, in fp32 or fp16: its engines are built
            now, which takes minutes, or were kept from another time. Needs an artefact that was
            exported with its shapes.
        tensorrt_cache: where they are kept; None: `~/.cache/ernie_vil2/tensorrt`.
        verify: compare with the artefact's golden vectors now.

    Attributes:
        artefact: the folder, opened.
        embed_dim: numbers of an embedding.
        logit_scale: the model's factor on cosines.

    Raises:
        UserError: no such artefact or precision, a device that is not there, other embeddings
            than the training model's.
    """

    def __init__(
        self,
        folder,
        precision: str = "fp32",
        device: str = "cpu",
        threads: int | None = None,
        batch_size: int = 32,
        tensorrt: bool = False,
        verify: bool = True,
        tensorrt_cache: str | os.PathLike | None = None,
    ):
        self.artefact = folder if isinstance(folder, Artefact) else Artefact.open(folder)
        self.embed_dim, self.logit_scale = self.artefact.embed_dim, self.artefact.logit_scale
        self.precision, self.batch_size = precision, batch_size
        self.tokenizer, self.transform = self.artefact.tokenizer(), self.artefact.transform()
        self._threads = threads or runtime.usable_cores()
        self.start_pool()
        # checksums, of both towers at a time
        list(self._pool.map(lambda tower: self.artefact.program(tower, precision), TOWERS))
        options = TowerOptions(
            precision, device, self._threads, batch_size, tensorrt, tensorrt_cache
        )
        self._towers = {name: Tower(self.artefact, name, options) for name in TOWERS}
        fork.protect(self)
        if verify:
            self.verify()

    def encode_image(self, images: Sequence) -> np.ndarray:
        """float32 [N, D], L2-normalised.

        Args:
            images: each the bytes of an encoded file, a path to one, a file object open for reading
                bytes, a picture of Pillow, or RGB pixels uint8 [H, W, 3].

        Raises:
            UserError: one image that is not in a list.
            ImageError: an item, which it names, is no image.
        """
        single = isinstance(images, _ONE) or (isinstance(images, np.ndarray) and images.ndim < 4)
        if single or hasattr(images, "read"):
            raise UserError(f"images is one {_kind(images)}: expected a list, as in [image]")
        images = list(images)
        embeds = np.empty([len(images), self.embed_dim], np.float32)
        for part in _slices(len(images), self.batch_size):
            pixels = self._pool.map(self._pixels, range(part.start, part.stop), images[part])
            embeds[part] = self.embed_pixels(np.stack(list(pixels)))
        return embeds

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, D], L2-normalised; a text is cut to the artefact's `max_len` tokens.

        A text without a token gets an embedding too, the same for all of them.

        Raises:
            UserError: one string that is not in a list, or what is no string.
        """
        if isinstance(texts, (str, bytes)):
            raise UserError(f"texts is one {type(texts).__name__}: expected a list, as in [text]")
        return self.embed_ids(self.tokenizer(texts, pad_to="longest"))

    def classify(
        self,
        images: Sequence,
        classes: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        top: int = 5,
    ) -> list[list[tuple[str, float]]]:
        """For each image the `top` most probable classes: (name, probability), the best first.

        Args:
            images: as of `encode_image`.
            classes: names; None: those of the classifier that was exported with the model, whose
                texts need not be embedded again.
            templates: of the prompts, `{}` for the name; None: the artefact's.

        Raises:
            UserError: no classes, and none exported; a template without `{}`; as `encode_image`.
        """
        if classes is None:
            classifier = self.artefact.classifier()
            if classifier is None:
                raise UserError(
                    f"{self.artefact.folder} holds no classifier: name classes, or export the "
                    "model with --classes"
                )
            classes, embeds = classifier.names, classifier.embeds
        else:
            prompts = self.artefact.prompts if templates is None else templates
            embeds = embed_classes(classes, prompts, self.encode_text)
        cosine = self.encode_image(images) @ embeds.T  # [N, D], [C, D] -> [N, C]
        return most_probable(classes, probabilities(cosine, self.logit_scale), top)

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """What `artefact.transform()` gave, stacked: [N, ...] -> float32 [N, D]."""
        return self._towers["image"](pixels)

    def embed_ids(self, ids: np.ndarray) -> np.ndarray:
        """int64 [N, L], padded with 0 -> float32 [N, D].

        Texts of like length run together, so that a short one does not pay for a long one's width.

        Raises:
            UserError: ids that the text tower has no rows for.
        """
        return self._towers["text"](ids)

    def verify(self) -> dict[str, float]:
        """{"image", "text"}: the largest difference from the training model's golden vectors.

        Raises:
            UserError: as `Tower.verify`.
        """
        return {name: tower.verify() for name, tower in self._towers.items()}

    def _pixels(self, index: int, image) -> np.ndarray:
        try:
            return self.transform(_open(image))
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path; ImageError is one too
            reason = getattr(error, "strerror", None) or error
            if isinstance(image, (str, os.PathLike)) and not isinstance(error, ImageError):
                reason = f"{str(image)[:100]} cannot be read: {reason}"
            raise ImageError(f"image {index}: {reason}") from None

    def locks(self) -> list:
        """Held while a program runs."""
        return [tower.program.lock for tower in self._towers.values()]

    def start_pool(self) -> None:
        """Threads that decode: new ones, also in the child of a fork."""
        self._pool = ThreadPoolExecutor(self._threads, "decode")


_ONE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)  # each an image by itself


def _kind(image) -> str:
    return f"{type(image).__name__} {list(getattr(image, 'shape', []))}".removesuffix(" []")


def _open(image) -> bytes | np.ndarray:
    """What a transform takes. Raises OSError, ImageError."""
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    if hasattr(image, "read"):
        image = image.read()
        if isinstance(image, str):
            raise ImageError('a file object that gives text: open it for bytes, with "rb"')
    if not isinstance(image, (bytes, bytearray, memoryview, np.ndarray)):
        raise ImageError(
            f"{_kind(image)}: expected bytes, a path, a file object, a picture of Pillow, or uint8 "
            "[H, W, 3]"
        )
    return image


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
