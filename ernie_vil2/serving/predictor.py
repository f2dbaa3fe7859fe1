"""An exported model on Paddle Inference: images and strings in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ernie_vil2 import runtime
from ernie_vil2.artefact.folder import TOWERS, Artefact
from ernie_vil2.artefact.golden import check_golden
from ernie_vil2.data.decode import rgb_pixels
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.serving import fork
from ernie_vil2.serving.buckets import by_length
from ernie_vil2.serving.program import Program


class Predictor:
    """The two programs of an artefact.

    Threads may share it: each program runs one batch at a time, on all its own threads. The
    children of a `fork` may share it too, except on a GPU, whose state they cannot use.

    Args:
        folder: that tools/export.py wrote.
        precision: one that was exported: "fp32", "bf16" (CPUs with AVX512-BF16), "int8"
            (CPU), "fp16" (GPU).
        device: "cpu", "gpu" or "gpu:1".
        threads: of the CPU; None: all usable cores.
        batch_size: most items of one run.
        tensorrt: let TensorRT run what it can, on a GPU.
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
    ):
        self.artefact = folder if isinstance(folder, Artefact) else Artefact.open(folder)
        self.embed_dim, self.logit_scale = self.artefact.embed_dim, self.artefact.logit_scale
        self.precision, self.batch_size = precision, batch_size
        self.tokenizer, self.transform = self.artefact.tokenizer(), self.artefact.transform()
        self._threads = threads or runtime.usable_cores()
        options = precision, device, self._threads, tensorrt
        self.start_pool()
        found = self._pool.map(lambda tower: self.artefact.program(tower, precision), TOWERS)
        self._programs = {tower: Program(*files, *options) for tower, files in zip(TOWERS, found)}
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
            embeds[part] = self._programs["image"](np.stack(list(pixels)))
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

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """What `artefact.transform()` gave, stacked: [N, ...] -> float32 [N, D]."""
        embeds = np.empty([len(pixels), self.embed_dim], np.float32)
        for part in _slices(len(pixels), self.batch_size):
            embeds[part] = self._programs["image"](pixels[part])
        return embeds

    def embed_ids(self, ids: np.ndarray) -> np.ndarray:
        """int64 [N, L], padded with 0 -> float32 [N, D].

        Texts of like length run together, so that a short one does not pay for a long one's width.

        Raises:
            UserError: ids that the text tower has no rows for.
        """
        ids = self._checked(ids)
        embeds = np.empty([len(ids), self.embed_dim], np.float32)
        for rows, width in by_length(ids, self.batch_size):
            embeds[rows] = self._programs["text"](ids[rows, :width])
        return embeds

    def verify(self) -> dict[str, float]:
        """{"image", "text"}: the largest difference from the training model's golden vectors.

        Raises:
            UserError: fp32 is off by more than 1e-5, or another precision has a lower cosine than
                the exporter allowed it.
        """
        golden = self.artefact.golden()
        found = {
            "image": (self.encode_image(golden.images), golden.image_embeds),
            "text": (self.encode_text(golden.texts), golden.text_embeds),
        }
        least = None
        if self.precision != "fp32":
            least = self.artefact.precisions[self.precision].get("min_cosine", 0.99)
        where = f"{self.artefact.folder} in {self.precision}"
        return {tower: check_golden(where, tower, *both, least) for tower, both in found.items()}

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        """The ids, without padding beyond the last position.

        Outside its tables Paddle reads anything, or ends the process.
        """
        rows, positions = self.artefact.vocab_size, self.artefact.max_positions
        if ids.ndim != 2 or ids.dtype != np.int64:
            raise UserError(f"ids are {ids.dtype} {list(ids.shape)}: expected int64 [N, L]")
        if ids.size and (ids.min() < 0 or ids.max() >= rows):
            raise UserError(f"ids from {ids.min()} to {ids.max()}: expected 0 to {rows - 1}")
        if ids[:, positions:].any():
            raise UserError(f"a text of up to {ids.shape[1]} tokens: expected at most {positions}")
        return ids[:, :positions]

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
        return [program.lock for program in self._programs.values()]

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
