"""Embed the images and texts of a data set, sharded over ranks."""

from typing import NamedTuple

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from ernie_vil2 import distributed
from ernie_vil2.data.loader import one_thread
from ernie_vil2.data.records import BadRecord, build_reader
from ernie_vil2.data.transforms import ImageError, eval_transform
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.report import ImageQuery, Result, TextQuery
from ernie_vil2.evaluation.retrieval import evaluate_retrieval, rank_of_positives, top_k


class Embeddings(NamedTuple):
    """A set's images, each once, and all its captions.

    image_embeds float32 [N, D], text_embeds float32 [M, D], both L2-normalised; image_of_text int64
    [M], the image that a caption belongs to; image_rows int64 [N], its record in the reader.
    """

    image_ids: list
    image_rows: np.ndarray
    image_embeds: np.ndarray
    texts: list
    text_embeds: np.ndarray
    image_of_text: np.ndarray


class _Rows(Dataset):
    """Records read and decoded by worker processes; a bad one is an error."""

    def __init__(self, reader, transform, first: int, last: int):
        self.reader, self.transform = reader, transform
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int):
        try:
            record = self.reader[self.first + index]
        except BadRecord as error:
            return str(error)
        try:
            return self.first + index, record.id, self.transform(record.image), record.captions
        except ImageError as error:
            return f"{record.source}: {error}"


def embed_records(
    model,
    reader,
    transform,
    tokenizer,
    batch_size: int,
    num_workers: int = 0,
    progress=lambda: None,
) -> Embeddings:
    """`Embeddings` of all records, complete on every rank; rows with equal ids are one image.

    progress: called after each batch.
    Raises UserError for a record that cannot be read: an evaluation leaves nothing out.
    """
    world, rank = distributed.world_size(), distributed.rank()
    first, last = (len(reader) * r // world for r in (rank, rank + 1))
    loader = DataLoader(
        _Rows(reader, transform, first, last),
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=one_thread,
        collate_fn=list,
        # what workers return goes through pipes as it is: strings are no tensors
        use_shared_memory=False,
        return_list=True,
    )
    ids, rows, images, texts, owners, tokens = {}, [], [], [], [], []
    error = None
    with paddle.no_grad():
        for batch in loader:
            error = next((item for item in batch if isinstance(item, str)), None)
            if error:
                break
            new = []
            for row, image_id, pixels, captions in batch:
                if image_id not in ids:
                    ids[image_id] = len(ids)
                    rows.append(row)
                    new.append(np.asarray(pixels))
                texts.extend(captions)
                owners.extend([image_id] * len(captions))
            if new:
                images.append(model.encode_image(paddle.to_tensor(np.stack(new))).numpy())
            progress()
        for start in range(0, len(texts) if not error else 0, batch_size):
            input_ids = tokenizer(texts[start : start + batch_size], pad_to="longest")
            tokens.append(model.encode_text(paddle.to_tensor(input_ids)).numpy())
            progress()
    # a bad record on one rank must end all of them, not leave the others waiting
    parts = distributed.all_gather_objects((error, list(ids), rows, images, texts, owners, tokens))
    for part in parts:
        if part[0]:
            raise UserError(f"{part[0]}: an evaluation leaves nothing out, mend or remove it")
    return _merge(parts)


def _merge(parts: list) -> Embeddings:
    """The ranks' parts as one; an image whose captions lie on two ranks was embedded on both."""
    index, kept, image_rows = {}, [], []
    offset = 0
    for _, ids, rows, *_ in parts:
        for position, image_id in enumerate(ids):
            if image_id not in index:
                index[image_id] = len(index)
                kept.append(offset + position)
                image_rows.append(rows[position])
        offset += len(ids)
    return Embeddings(
        image_ids=list(index),
        image_rows=np.array(image_rows),
        image_embeds=np.concatenate([e for part in parts for e in part[3]])[kept],
        texts=[text for part in parts for text in part[4]],
        text_embeds=np.concatenate([e for part in parts for e in part[6]]),
        image_of_text=np.array([index[owner] for part in parts for owner in part[5]]),
    )


class Evaluator:
    """Retrieval on the set of `DataLoader.Eval`; call it with a model in eval mode."""

    def __init__(self, config, tokenizer):
        self.loader, self.metric = config.DataLoader.Eval, config.Metric
        self.reader = build_reader(**self.loader.dataset)
        size, mean, std = (config.Transform[key] for key in ("size", "mean", "std"))
        self.transform = eval_transform(size, mean, std)
        self.tokenizer = tokenizer
        self.seed = config.Global.seed

    def embed(self, model, progress=lambda: None) -> Embeddings:
        """The whole set's embeddings, on every rank; `progress()` is called after each batch."""
        return embed_records(
            model,
            self.reader,
            self.transform,
            self.tokenizer,
            self.loader.batch_size,
            self.loader.num_workers,
            progress,
        )

    def score(self, embeddings: Embeddings) -> dict:
        """The report of `evaluate_retrieval`."""
        return evaluate_retrieval(
            embeddings.image_embeds,
            embeddings.text_embeds,
            embeddings.image_of_text,
            ks=self.metric.ks,
            bootstrap=self.metric.bootstrap,
            seed=self.seed,
            block=self.metric.block,
        )

    def examples(self, embeddings: Embeddings, count: int, shown: int = 8) -> list:
        """`count` random texts with the images found for them, and images with the texts found."""
        rng = np.random.default_rng(self.seed)
        owner = embeddings.image_of_text

        def picture(image: int) -> bytes:
            return self.reader[int(embeddings.image_rows[image])].image

        def search(query, gallery, positives):
            """What is found for each query, its scores, and the rank of the first right one."""
            block = self.metric.block
            ranks = rank_of_positives(query, gallery, positives, block)
            return zip(*top_k(query, gallery, shown, block), ranks.tolist())

        texts = rng.permutation(len(owner))[:count]
        found = search(
            embeddings.text_embeds[texts], embeddings.image_embeds, [[owner[t]] for t in texts]
        )
        queries: list = [
            TextQuery(
                embeddings.texts[text],
                [
                    Result(embeddings.image_ids[i], float(s), bool(i == owner[text]), picture(i))
                    for i, s in zip(images, scores)
                ],
                rank,
            )
            for text, (images, scores, rank) in zip(texts, found)
        ]
        images = rng.permutation(np.unique(owner))[:count]
        found = search(
            embeddings.image_embeds[images],
            embeddings.text_embeds,
            [np.flatnonzero(owner == image).tolist() for image in images],
        )
        return queries + [
            ImageQuery(
                picture(image),
                [
                    Result(embeddings.texts[t], float(s), bool(owner[t] == image))
                    for t, s in zip(texts, scores)
                ],
                rank,
            )
            for image, (texts, scores, rank) in zip(images, found)
        ]
