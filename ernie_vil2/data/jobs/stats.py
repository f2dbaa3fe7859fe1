"""The numbers of a data set: of its pictures, texts, tags and duplicates."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.jobs import columns, hashes
from ernie_vil2.data.jobs.columns import Measure, column
from ernie_vil2.data.jobs.engine import Engine, pieces
from ernie_vil2.data.jobs.job import opened
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.jobs.stats_page import page
from ernie_vil2.files import durable

REPORT, PAGE = "stats.json", "stats.html"
_QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent
_SIDES = (0, 64, 128, 192, 224, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
_COUNTS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 50)
# Where the bins of a histogram begin; the same for all sets, which can so be compared.
_EDGES: dict[str, Sequence[float]] = {
    "width": _SIDES,
    "height": _SIDES,
    "shorter side": _SIDES,
    "width / height": (0, 0.33, 0.5, 0.67, 0.75, 0.9, 1.1, 1.34, 1.5, 2, 3),
    "bytes": (0, *(1024 * 2**power for power in range(1, 15))),
    "characters": (0, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 500, 1000),
    "tokens": (0, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512),
    "captions": _COUNTS,
    "tags": _COUNTS,
}
_REASONS = 20  # that are listed


def write_stats(
    source: Source,
    out: Path,
    vocab_file: str | None,
    engine: Engine,
    piece: int | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Write `stats.json` and `stats.html` to `out`; gives what the former holds.

    Args:
        vocab_file: of the tokenizer that counts tokens; None: that of the source's configuration,
            and where it has none, they are not counted.
    """
    tokenizer = source.tokenizer or {}
    vocab_file = vocab_file or tokenizer.get("vocab_file")
    lowercase = tokenizer.get("lowercase", True)
    what = {"command": "stats", "format": 1, "piece": piece, "vocab": vocab_file}
    with opened(out, source, {**what, "lowercase": lowercase}, [PAGE, REPORT], restart) as job:
        if not job.done:
            measure = Measure(source, vocab_file, lowercase)
            parts = job.map("measure", measure, pieces(len(source.reader), piece), engine)
            report = {"dataset": dict(source.dataset), **_report(parts, len(source.reader))}
            durable.replace_text(out / PAGE, page(report))
            text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
            durable.replace_text(out / REPORT, text)
            job.finish()
    return dict(durable.read_json(out / REPORT))


def _report(parts: Sequence[Path], rows: int) -> dict[str, Any]:
    def of(*names: str) -> dict[str, Any]:
        return {name: _summary(name, column(parts, name)) for name in names}

    tags = column(parts, "tags")
    return {
        "rows": rows,
        "records": len(tags),
        "bad": _bad(parts, rows - len(tags)),
        "duplicates": _duplicates(parts, rows),
        "pictures": {
            **of("width", "height"),
            **_derived(parts, "shorter side", np.minimum),
            **_derived(parts, "width / height", np.divide),
            **of("bytes"),
            "format": _named(column(parts, "format"), columns.FORMATS),
        },
        "texts": {
            **of("characters", "tokens", "captions"),
            "language": _named(column(parts, "language"), columns.LANGUAGES),
        },
        "tags": {**of("tags"), "records with tags": int(np.count_nonzero(tags))},
    }


def _derived(
    parts: Sequence[Path], name: str, of: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
) -> dict[str, Any]:
    return {name: _summary(name, of(column(parts, "width"), column(parts, "height")))}


def _summary(name: str, values: NDArray[Any]) -> dict[str, Any] | None:
    """Quantiles, which are exact, and a histogram; None of no value at all."""
    if not len(values):
        return None
    edges = _EDGES[name]
    counts = np.bincount(np.digitize(values, edges[1:]), minlength=len(edges))
    return {
        "count": len(values),
        "sum": values.sum().item(),
        "mean": values.mean().item(),
        "min": values.min().item(),
        "quantiles": dict(
            zip([f"{p} %" for p in _QUANTILES], np.percentile(values, _QUANTILES).tolist())
        ),
        "max": values.max().item(),
        "histogram": {"from": list(edges), "count": counts.tolist()},
    }


def _named(numbers: NDArray[Any], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts) if count}


def _duplicates(parts: Sequence[Path], rows: int) -> dict[str, int]:
    """Records whose picture, or picture and captions, an earlier record has."""

    def repeated(kind: str) -> int:
        def blocks() -> Any:
            for part in parts:
                yield np.load(part / "numbers.npy"), np.load(part / f"{kind}_hashes.npy")

        return int(np.count_nonzero(hashes.first_of_each(blocks, rows) != np.arange(rows)))

    return {"image": repeated("image"), "image and captions": repeated("pair")}


def _bad(parts: Sequence[Path], count: int) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    for part in parts:
        with open(part / "bad.jsonl", encoding="utf-8") as file:
            reasons.update(json.loads(line)["reason"] for line in file)
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return {"count": count, "reasons": dict(itertools.islice(most, _REASONS))}
