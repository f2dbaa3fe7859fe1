"""Lists of texts and images to embeddings, each item by itself, through the Batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np

from ernie_vil2 import runtime
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.serving.http.batcher import Batcher, Compute
from ernie_vil2.serving.http.metrics import Metrics
from ernie_vil2.serving.items import ItemError, prepare_image, prepare_text
from ernie_vil2.serving.web.limits import Limits

Row = np.ndarray  # float32 [D], L2-normalised


class Embedder:
    """Tokenises and decodes in a few threads, and lets the batcher's thread run the model.

    So the event loop stays free.

    Args:
        artefact: whose tokenizer and transform prepare the items.
        load: gives the Predictor; called in the batcher's thread.
        limits: of an item.
        metrics: where batches and refused items are counted.
        max_batch: images of a run of the model; four times as many texts.
        max_wait, max_queue: as in `Batcher`.
    """

    def __init__(
        self,
        artefact: Artefact,
        load: Callable,
        limits: Limits,
        metrics: Metrics,
        max_batch: int = 8,
        max_wait: float = 0.005,
        max_queue: int = 512,
    ):
        self.limits = limits
        self.metrics = metrics
        # The Predictor runs texts of like length together: the more it sees, the less padding.
        batches = {"image": max_batch, "text": 4 * max_batch}
        self.batcher = Batcher(partial(_load, load), batches, max_wait, max_queue, metrics.on_batch)
        self._tokenizer = artefact.tokenizer()
        self._transform = artefact.transform()
        # One image per thread is faster than OpenCV's threads on each. Texts take microseconds, and
        # must not wait behind images, which may take seconds.
        threads = min(4, runtime.usable_cores())
        self._pools = {
            "image": ThreadPoolExecutor(
                threads, "images", initializer=cv2.setNumThreads, initargs=(0,)
            ),
            "text": ThreadPoolExecutor(threads, "texts"),
        }

    def close(self, timeout: float) -> None:
        self.batcher.close(timeout)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    async def in_pool(self, kind: str, function: Callable, *args):
        """`function(*args)` in a thread; kind: "image" for what may take long, "text" else."""
        return await asyncio.get_running_loop().run_in_executor(self._pools[kind], function, *args)

    async def prepare_texts(self, texts: list[str]) -> list[np.ndarray | ItemError]:
        """Of each text its token ids, or why there are none."""
        return await self.in_pool("text", self.tokenised, texts)

    def tokenised(self, texts: Sequence[str]) -> list[np.ndarray | ItemError]:
        """The same, in this thread."""
        return [prepare_text(text, self._tokenizer, self.limits) for text in texts]

    async def prepare_images(self, images: list[str | bytes]) -> list[np.ndarray | ItemError]:
        """Of each image, a file or base64 of one, what the model takes, or why there is nothing."""
        return await asyncio.gather(
            *(
                self.in_pool("image", prepare_image, image, self._transform, self.limits)
                for image in images
            )
        )

    async def texts(self, texts: list[str]) -> list[Row | ItemError]:
        """Of each text its embedding, or why there is none."""
        prepared = await self.prepare_texts(texts)
        return await self._embed("text", prepared)

    async def images(self, images: list[str | bytes]) -> list[Row | ItemError]:
        """Of each image, a file or base64 of one, its embedding, or why there is none."""
        prepared = await self.prepare_images(images)
        return await self._embed("image", prepared)

    async def _embed(self, kind: str, prepared: list[np.ndarray | ItemError]) -> list:
        good = [item for item in prepared if not isinstance(item, ItemError)]
        for item in prepared:
            if isinstance(item, ItemError):
                self.metrics.item_errors.labels(kind, item.code).inc()
        rows = iter(await asyncio.wrap_future(self.batcher.submit(kind, good)))
        return [item if isinstance(item, ItemError) else next(rows) for item in prepared]


def _load(load: Callable) -> Mapping[str, Compute]:
    predictor = load()

    def finite(embed: Callable, items: list) -> list[Row]:
        rows = embed(np.stack(items))
        if not np.isfinite(rows).all():  # JSON has no such numbers
            raise FloatingPointError("the model gave infinite or undefined numbers")
        return list(rows)

    return {
        "image": partial(finite, predictor.embed_pixels),
        "text": partial(finite, predictor.embed_ids),
    }
