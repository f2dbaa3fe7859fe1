"""Tags for a whole set: a file of them, and what could not be looked at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ernie_vil2.data.jobs.engine import Engine, pieces
from ernie_vil2.data.jobs.job import Job, opened
from ernie_vil2.data.jobs.lines import join_files, json_line, ledger_line, text_file
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.files import durable
from ernie_vil2.tagging.similarity import SimilarityTagger
from ernie_vil2.tagging.tags import Tagger, Tags

TAGS, BAD, SUMMARY = "tags.jsonl", "bad_records.jsonl", "tags.json"
_COUNTS = "counts.json"  # of a piece
_FREQUENT = 1000  # tags that the summary lists
_WORDS = "words.npy"


@dataclass(frozen=True)
class TagPiece:
    """Writes the tags of a piece's records, and the rows that are none or have no picture.

    Attributes:
        batch_size: records that the tagger sees at a time.
    """

    source: Source
    tagger: Tagger
    batch_size: int

    def __call__(self, piece: range, folder: Path) -> None:
        counts: Counter[str] = Counter()
        totals = {"records": 0, "tagged": 0, "bad": 0}
        with text_file(folder / TAGS) as good, text_file(folder / BAD) as bad:
            for number, (record, tags) in zip(piece, self._tagged(piece)):
                if isinstance(record, BadRecord):
                    totals["bad"] += 1
                    bad.write(ledger_line(number, record.source, record.reason))
                    continue
                totals["records"] += 1
                totals["tagged"] += bool(tags.names)
                counts.update(tags.names)
                row = {"id": record.id, "source": record.source, "tags": tags.names}
                good.write(json_line({**row, "scores": tags.scores, "from": self.tagger.origin}))
        with text_file(folder / _COUNTS) as file:
            file.write(json_line({**totals, "counts": counts}))

    def _tagged(self, piece: range) -> Iterator[tuple[Record | BadRecord, Tags]]:
        """Each record in order with its tags; what cannot be looked at as a BadRecord."""
        for start in range(piece.start, piece.stop, self.batch_size):
            stop = min(start + self.batch_size, piece.stop)
            found = [self.source.get(number) for number in range(start, stop)]
            records = [record for record in found if isinstance(record, Record)]
            tags = iter(self.tagger.tag(records) if records else [])
            for record in found:
                if isinstance(record, BadRecord):
                    yield record, Tags()
                    continue
                of_record = next(tags)
                bad = of_record.bad
                yield (BadRecord(record.source, bad) if bad else record), of_record


@dataclass(frozen=True)
class EmbedWords:
    """The vocabulary's embeddings, as a piece of their own, so that they are computed once."""

    tagger: SimilarityTagger

    def __call__(self, piece: range, folder: Path) -> None:
        np.save(folder / _WORDS, self.tagger.embed_words())


def tag_set(
    out: Path,
    source: Source,
    tagger: Tagger,
    options: Mapping[str, Any],
    engine: Engine,
    batch_size: int = 16,
    piece: int | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Write `tags.jsonl`, `bad_records.jsonl` and `tags.json` to `out`; interrupted, it goes on.

    Args:
        options: all that the tags depend on beside source and tagger; plain values.
        batch_size: records that the tagger sees at a time.
        piece: records that are done or not done as a whole; None: 1000 or more.

    Returns:
        The summary: what made the tags, and how many records have them.

    Raises:
        UserError: as `opened`; what the tagger meets.
    """
    what = {"command": "tag", "from": tagger.origin, "batch_size": batch_size, **options}
    what["piece"] = piece
    with opened(out, source, what, [TAGS, BAD, SUMMARY], restart) as job:
        if not job.done:
            ranges = pieces(len(source.reader), piece)
            _do(job, TagPiece(source, tagger, batch_size), ranges, what, engine)
        return json.loads((out / SUMMARY).read_text(encoding="utf-8"))


def _do(
    job: Job, work: TagPiece, ranges: Sequence[range], what: Mapping[str, Any], engine: Engine
) -> None:
    if isinstance(work.tagger, SimilarityTagger):
        (place,) = job.map("vocabulary", EmbedWords(work.tagger), [range(1)], Engine(processes=1))
        work.tagger.embeds_file = str(place / _WORDS)
    parts = job.map("tagging", work, ranges, engine)
    for name in (TAGS, BAD):
        join_files(job.out / name, [part / name for part in parts])
    counts: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for part in parts:
        content = json.loads((part / _COUNTS).read_text(encoding="utf-8"))
        counts.update(content.pop("counts"))
        totals.update(content)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_FREQUENT]
    summary = {**what, **totals, "different": len(counts), "frequent": dict(frequent)}
    text = json.dumps(summary, ensure_ascii=False, indent=1) + "\n"
    durable.replace_text(job.out / SUMMARY, text)
    job.finish()
