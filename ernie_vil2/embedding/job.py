"""Embeddings of a whole set: pieces are embedded, then laid into shards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.data.jobs.engine import HERE, Engine, pieces
from ernie_vil2.data.jobs.job import Job, opened
from ernie_vil2.data.jobs.lines import join_files
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import Record
from ernie_vil2.embedding.piece import BAD, COUNTS, VECTORS, EmbedPiece, Model
from ernie_vil2.embedding.shards import ABOUT, TABLE, WriteShard, scale_of
from ernie_vil2.embedding.sources import PictureFolder
from ernie_vil2.files import durable
from ernie_vil2.search.identity import model_identity

MANIFEST, LISTING, LINES = "manifest.json", "pictures.jsonl", "jsonl"
_LEAST = {"cpu": 256, "gpu": 4096}  # records of a piece: some seconds of work
_LOOKED_AT = 16  # records that say what a set has


@dataclass(frozen=True)
class Options:
    """What is written.

    Attributes:
        towers: of "image" and "text".
        dtype: of `shards.DTYPES`.
        shard_rows: of a shard, at most.
        jsonl: lines of JSON beside it.
        piece: records that are done or not done as a whole; None: chosen.
    """

    towers: Sequence[str]
    dtype: str = "float16"
    shard_rows: int = 100_000
    jsonl: bool = False
    piece: int | None = None


def towers_of(source: Source) -> tuple[str, ...]:
    """What the set has, by some records of its beginning: "image", "text" or both."""
    found = map(source.get, range(min(_LOOKED_AT, len(source.reader))))
    records = [record for record in found if isinstance(record, Record)]
    has = {
        "image": any(record.image for record in records),
        "text": any(record.captions for record in records),
    }
    return tuple(tower for tower in VECTORS if has[tower] or not any(has.values()))


def embed_set(
    out: Path,
    source: Source,
    model: Model,
    options: Options,
    engine: Engine,
    restart: bool = False,
) -> dict[str, Any]:
    """Write vectors, tables, `bad_records.jsonl` and `manifest.json` to `out`; interrupted, it goes
    on, and the bytes are the same.

    Returns:
        The manifest.

    Raises:
        UserError: as `opened`; an artefact that is none.
    """
    artefact = Artefact.open(model.folder)
    for tower in options.towers:
        artefact.program(tower, model.precision)
    device = model.device.partition(":")[0]
    what: dict[str, Any] = {"command": "embed", "format": 1, **asdict(options)}
    what |= {"model": model_identity(artefact), "dim": artefact.embed_dim}
    what |= {"precision": model.precision, "device": device, "batch_size": model.batch_size}
    if isinstance(source.reader, PictureFolder):
        what["pictures"] = source.reader.digest()
    outputs = [*(f"{name}/*.npy" for name in VECTORS.values()), f"{TABLE}/*.parquet"]
    outputs += [f"{LINES}/*.jsonl", BAD, MANIFEST]
    with opened(out, source, what, outputs, restart) as job:
        if not job.done:
            ranges = pieces(len(source.reader), options.piece, _LEAST.get(device, _LEAST["cpu"]))
            work = EmbedPiece(_shared(job, source), model, options.towers)
            _do(job, options, work, ranges, engine)
            job.finish()
    return dict(durable.read_json(out / MANIFEST))


def _shared(job: Job, source: Source) -> Source:
    """The source as all processes shall see it: of a folder the pictures that are there now."""
    if not isinstance(source.reader, PictureFolder):
        return source
    (place,) = job.map("listing", _WriteListing(source.reader), [range(1)], HERE)
    return Source({**source.dataset, "listing": str(place / LISTING)})


@dataclass(frozen=True)
class _WriteListing:
    pictures: PictureFolder

    def __call__(self, piece: range, folder: Path) -> None:
        self.pictures.write_listing(folder / LISTING)


def _do(
    job: Job, options: Options, work: EmbedPiece, ranges: Sequence[range], engine: Engine
) -> None:
    parts = job.map("embedding", work, ranges, engine)
    counts = [durable.read_json(part / COUNTS) for part in parts]
    ends = list(itertools.accumulate(of_piece["rows"] for of_piece in counts))
    scales = {}
    if options.dtype == "int8":
        for tower in options.towers:
            scales[tower] = scale_of(max(of_piece["largest"][tower] for of_piece in counts))
    write = WriteShard(parts, ends, options.towers, options.dtype, scales, options.jsonl)
    written = job.map("shards", write, pieces(ends[-1], options.shard_rows), engine)
    about = [durable.read_json(place / ABOUT) for place in written]
    files = [_named(job.out, place, number, len(written)) for number, place in enumerate(written)]
    for name in (*VECTORS.values(), LINES):  # which a restart with other options has left empty
        with contextlib.suppress(OSError):
            (job.out / name).rmdir()
    join_files(job.out / BAD, [part / BAD for part in parts])
    manifest: dict[str, Any] = {
        **{name: value for name, value in job.what.items() if name != "files"},
        "rows": ends[-1],
        "bad": sum(of_piece["bad"] for of_piece in counts),
        "scale": scales,
        "least_cosine": {
            tower: min((of_shard["least_cosine"][tower] for of_shard in about), default=1.0)
            for tower in options.towers
        },
        "shards": [
            {"rows": of_shard["rows"], "files": {names[x]: of_shard["files"][x] for x in names}}
            for of_shard, names in zip(about, files)
        ],
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    durable.replace_text(job.out / MANIFEST, text + "\n")


def _named(out: Path, place: Path, number: int, count: int) -> dict[str, str]:
    """Move a shard's files to where they belong; gives their names there by those they had."""
    digits = f"{number:0{len(str(count))}d}"  # clip-retrieval has as many
    names = {
        **{f"{name}.npy": f"{name}/{name}_{digits}.npy" for name in VECTORS.values()},
        f"{TABLE}.parquet": f"{TABLE}/{TABLE}_{digits}.parquet",
        **{f"{name}.jsonl": f"{LINES}/{name}_{digits}.jsonl" for name in VECTORS.values()},
    }
    there = durable.read_json(place / ABOUT)["files"]
    found = {file: name for file, name in names.items() if file in there}
    for file, name in found.items():
        (out / name).parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # an interrupted run has moved it
            os.replace(place / file, out / name)
        durable.sync((out / name).parent)
    return found
