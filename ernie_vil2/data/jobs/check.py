"""Read and decode every record of a data set, and list what is bad."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.jobs.engine import Engine, pieces
from ernie_vil2.data.jobs.job import opened
from ernie_vil2.data.jobs.lines import ledger_line, text_file
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.files import durable

LEDGER, SUMMARY = "bad_records.jsonl", "check.json"


def problem(record: Record | BadRecord) -> str | None:
    """What is wrong with a record, its picture decoded; None: nothing."""
    if isinstance(record, BadRecord):
        return record.reason
    try:
        if record.image:  # else a text alone, in an evaluation
            decode_image(record.image)
    except ImageError as error:
        return f"image: {error}"
    return None


@dataclass(frozen=True)
class Check:
    """Writes a line of the ledger for each bad record of a piece."""

    source: Source

    def __call__(self, piece: range, folder: Path) -> None:
        with text_file(folder / LEDGER) as file:
            for number, record in self.source.records(piece):
                reason = problem(record)
                if reason:
                    file.write(ledger_line(number, record.source, reason))


def check(
    source: Source, out: Path, engine: Engine, piece: int | None = None, restart: bool = False
) -> dict[str, Any]:
    """Write `bad_records.jsonl` and `check.json`, how many rows and bad ones there are; gives the
    latter."""
    what = {"command": "check", "format": 1, "piece": piece}
    with opened(out, source, what, [LEDGER, SUMMARY], restart) as job:
        if not job.done:
            parts = job.map("check", Check(source), pieces(len(source.reader), piece), engine)
            bad = 0
            with durable.replaced(out / LEDGER) as draft, open(draft, "wb") as ledger:
                for part in parts:
                    with open(part / LEDGER, "rb") as file:
                        bad += sum(1 for _ in file)
                        file.seek(0)
                        shutil.copyfileobj(file, ledger)
            summary = {"rows": len(source.reader), "bad": bad}
            durable.replace_text(out / SUMMARY, json.dumps(summary) + "\n")
            job.finish()
    return dict(durable.read_json(out / SUMMARY))
