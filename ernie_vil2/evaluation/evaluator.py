"""The evaluation that a configuration describes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.config.load import Config
from ernie_vil2.data.files.build import read_stores
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.mixture import MixtureReader
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.normalise import Normalise
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.data.transforms import eval_planes
from ernie_vil2.data.worker_count import worker_count
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.batches import Rows, check_rows
from ernie_vil2.evaluation.directions import ACROSS, WITHIN, score_within
from ernie_vil2.evaluation.embed import embed_records, pairs_of_parts
from ernie_vil2.evaluation.embeddings import Embeddings
from ernie_vil2.evaluation.examples import ImageQuery, TextQuery, draw_examples
from ernie_vil2.evaluation.retrieval import evaluate_retrieval
from ernie_vil2.preprocessing import preprocessing_of

log = logging.getLogger("ernie_vil2")


class Evaluator:
    """Retrieval on the set of `DataLoader.Eval`, for models in eval mode.

    Args:
        config: with a `DataLoader.Eval`.
        tokenizer: texts -> int64 [N, L].
        ledger: the file of the rows that are left out; by default `eval/bad_records.jsonl` of the
            run.
        skip_bad: as `DataLoader.Eval.skip_bad`.
        pictures: `transform` and `normalise` of `embed_records`; None: what `Transform` asks for.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Callable[..., np.ndarray],
        ledger: Path | None = None,
        skip_bad: bool = False,
        pictures: tuple[Callable[[Any], np.ndarray], Callable[[Any], Any]] | None = None,
    ):
        self.loader, self.metric = config.DataLoader.Eval, config.Metric
        read_stores(config.DataLoader.store)
        self.reader = build_reader(**self.loader.dataset).evaluation()
        self.workers = worker_count(self.loader.num_workers, "DataLoader.Eval")
        if pictures is None:
            name, mean, std = preprocessing_of(config.Transform)
            pictures = eval_planes(config.Transform.size, name), Normalise(mean, std)
        self.transform, self.normalise = pictures
        self.tokenizer = tokenizer
        self.seed = config.Global.seed
        self.skip_bad = skip_bad or self.loader.skip_bad
        self.ledger = Ledger(ledger or Path(config.Global.output_dir) / "eval/bad_records.jsonl")

    def check(self) -> None:
        """Read and decode the whole set, as `embed` will.

        It costs what an evaluation costs without its model; nothing if bad rows are skipped.

        Raises:
            UserError: a bad row, or no pair to score.
        """
        loader = self.loader
        if self.skip_bad:
            return
        log.info("read the %d records of DataLoader.Eval once, to find bad ones", len(self.reader))
        check_rows(
            Rows(
                self.reader,
                self.transform,
                loader.batch_size,
                self.workers,
                loader.worker_timeout,
            )
        )

    def embed(
        self,
        model: Any,
        progress: Callable[[], object] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
        label: Callable[[Record], str] | None = None,
        captions: bool = True,
    ) -> Embeddings | None:
        """The whole set's embeddings, on every rank; arguments as in `embed_records`.

        Returns:
            None on every rank as soon as `stopping()`, asked before each batch, is True on one.

        Raises:
            UserError: a bad row, unless `skip_bad`.
        """
        return embed_records(
            model,
            self.reader,
            self.transform,
            self.tokenizer,
            self.loader.batch_size,
            self.workers,
            progress,
            normalise=self.normalise,
            timeout=self.loader.worker_timeout,
            skip=self._skip if self.skip_bad else None,
            stopping=stopping,
            label=label,
            captions=captions,
            one_text=self.metric.equal_captions == "one",
        )

    def _skip(self, error: BadRecord) -> None:
        try:
            self.ledger.add(error)
        except UserError as failure:  # the disk is full, say
            log.warning("%s; left out all the same: %s", failure, error)

    def score(self, embeddings: Embeddings, directions: Collection[str] = ACROSS) -> dict[str, Any]:
        """The report of `evaluate_retrieval`, and `bad_records`, the number of rows left out.

        Of a mixture also `sources`, name -> report of the source's pairs among themselves.

        Args:
            directions: of `ACROSS`, both or none, and of `WITHIN`.
        """
        report: dict[str, Any] = {"protocol": self.metric.protocol}
        if set(directions) & set(ACROSS):
            report = self._report(
                embeddings.image_embeds, embeddings.text_embeds, embeddings.images_of_text
            )
            if isinstance(self.reader, MixtureReader):
                parts = dict(zip(self.reader.names, pairs_of_parts(embeddings, self.reader.ends)))
                report["sources"] = {n: self._report(*part) for n, part in parts.items() if part[2]}
        for direction in (name for name in WITHIN if name in directions):
            report[direction] = score_within(embeddings, direction, self.counting)
        return {**report, "bad_records": embeddings.bad_records}

    @property
    def counting(self) -> dict[str, Any]:
        """How scores are counted, as the functions of `evaluation/` take it."""
        names = ("ks", "bootstrap", "block", "protocol")
        return {**{name: self.metric[name] for name in names}, "seed": self.seed}

    def _report(
        self, image_embeds: np.ndarray, text_embeds: np.ndarray, images_of_text: list[list[int]]
    ) -> dict[str, Any]:
        return evaluate_retrieval(image_embeds, text_embeds, images_of_text, **self.counting)

    def examples(self, embeddings: Embeddings, count: int) -> list[TextQuery | ImageQuery]:
        """`count` queries of both kinds for the report's page, with what was found for them."""
        return draw_examples(
            embeddings,
            lambda image: self.reader[int(embeddings.image_rows[image])].image,
            count,
            self.seed,
            self.metric.block,
            self.metric.protocol,
        )
