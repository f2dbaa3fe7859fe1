"""One tower of an exported model on one device: pixels or token ids in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ernie_vil2 import runtime
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.artefact.golden import EXACT, TF32, Bound, check_golden
from ernie_vil2.errors import UserError
from ernie_vil2.serving import tensorrt
from ernie_vil2.serving.buckets import by_length, widths
from ernie_vil2.serving.program import Program
from ernie_vil2.tf32 import full_float32

_BLACK = np.zeros([8, 8, 3], np.uint8)


@dataclass(frozen=True)
class TowerOptions:
    """How a tower runs; both servers and the Predictor have the same.

    Attributes:
        precision: one that was exported: "fp32", "bf16" (CPUs with AVX512-BF16, GPUs from Ampere
            on), "int8" (CPU), "fp16" (GPU).
        device: "cpu", "gpu" or "gpu:1".
        threads: of the CPU; None: all usable cores.
        batch_size: most images or texts of one run.
        tensorrt: let TensorRT run what it can, on a GPU, in fp32 or fp16.
        tensorrt_cache: where its engines are kept; None: `~/.cache/ernie_vil2/tensorrt`.
    """

    precision: str = "fp32"
    device: str = "cpu"
    threads: int | None = None
    batch_size: int = 32
    tensorrt: bool = False
    tensorrt_cache: str | os.PathLike | None = None


def golden_bound(artefact: Artefact, options: TowerOptions) -> Bound:
    """How far the embeddings that are served so may be from the golden vectors."""
    if options.precision != "fp32":
        return Bound(None, artefact.precisions[options.precision].get("min_cosine", 0.99))
    return EXACT if options.device == "cpu" else TF32


class Tower:
    """A tower that is loaded and, on a GPU, warm.

    Args:
        artefact: the exported model.
        name: "image" or "text".
        options: how it runs.

    Raises:
        UserError: what was not exported, or cannot run here.
    """

    def __init__(self, artefact: Artefact, name: str, options: TowerOptions):
        self.artefact, self.name, self.options = artefact, name, options
        self.longest = artefact.max_positions
        files, engine = artefact.program(name, options.precision), None
        if options.tensorrt:
            runtime.prepare()  # before Paddle
            tensorrt.check(options.device, options.precision)
            self.longest = tensorrt.most_tokens(artefact, options.batch_size)
            engine = tensorrt.engine(
                artefact, name, options.precision, options.device, options.tensorrt_cache
            )
        threads = options.threads or runtime.usable_cores()
        self.program = Program(*files, options.precision, options.device, threads, engine)
        if options.device != "cpu":
            self.warm_up()

    def __call__(self, rows: np.ndarray, after_run: Callable[[], None] | None = None) -> np.ndarray:
        """float32 [N, D], L2-normalised.

        Texts of like length run together, so that a short one does not pay for a long one's width.

        Args:
            rows: what `artefact.transform()` gave, stacked, [N, ...]; or int64 [N, L], padded with
                0.
            after_run: called after each run of the program.

        Raises:
            UserError: ids that the text tower has no rows for.
        """
        if self.name == "text":
            rows = self._checked(rows)
        embeds = np.empty([len(rows), self.artefact.embed_dim], np.float32)
        for part, width in self._parts(rows):
            embeds[part] = self.program(rows[part] if width is None else rows[part, :width])
            if after_run is not None:
                after_run()
        return embeds

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray | slice, int | None]]:
        """What runs together: indices of rows, and their width in tokens if they are texts."""
        size = self.options.batch_size
        if self.name == "text":
            yield from by_length(rows, size)
            return
        for start in range(0, len(rows), size):
            yield slice(start, start + size), None

    def warm_up(self) -> None:
        """Run the shapes that will be asked for: of each width the least and the largest batch.

        So on a GPU kernels are loaded and chosen, and memory is found to be enough, before a
        request waits for it.
        """
        for rows in sorted({1, self.options.batch_size}, reverse=True):
            if self.name == "image":
                self.program(np.stack([self.artefact.transform()(_BLACK)] * rows))
                continue
            for width in widths(min(self.artefact.max_len, self.longest)):
                self.program(np.ones([rows, width], np.int64))

    def verify(self) -> float:
        """The largest difference from the training model's golden vectors.

        On a GPU, fp32 is compared twice: without TensorFloat-32, which shows any damage, and as it
        is served, with it. TensorRT does not ask Paddle about that, so there only the latter.

        Raises:
            UserError: fp32 is off by more than 1e-5, with TensorFloat-32 1e-3, or another
                precision has a lower cosine than the exporter allowed it.
        """
        bound = golden_bound(self.artefact, self.options)
        if bound is TF32 and not self.options.tensorrt:
            with full_float32():
                self._compare(EXACT)
        return self._compare(bound)

    def _compare(self, bound: Bound) -> float:
        golden = self.artefact.golden()
        if self.name == "image":
            rows = np.stack([*map(self.artefact.transform(), golden.images)])
            expected = golden.image_embeds
        else:
            rows = self.artefact.tokenizer()(golden.texts, pad_to="longest")
            expected = golden.text_embeds
        where = f"{self.artefact.folder} in {self.options.precision}"
        return check_golden(where, self.name, self(rows), expected, bound)

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        """The ids, without padding beyond the last position.

        Outside its tables Paddle reads anything, or ends the process.
        """
        rows, positions = self.artefact.vocab_size, self.longest
        if ids.ndim != 2 or ids.dtype != np.int64:
            raise UserError(f"ids are {ids.dtype} {list(ids.shape)}: expected int64 [N, L]")
        if ids.size and (ids.min() < 0 or ids.max() >= rows):
            raise UserError(f"ids from {ids.min()} to {ids.max()}: expected 0 to {rows - 1}")
        if ids[:, positions:].any():
            raise UserError(f"a text of up to {ids.shape[1]} tokens: expected at most {positions}")
        return ids[:, :positions]
