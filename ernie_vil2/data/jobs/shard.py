"""From any data set to tar shards without duplicates.

Three maps, each of which goes on where it was interrupted: every record is hashed; what stays is
decided, in one piece; every shard is written. A record's place in the shards follows from that
decision, so the bytes do not depend on who did which piece.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_vil2.data.arrays import Numbers
from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.formats import shard_index
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.jobs import hashes
from ernie_vil2.data.jobs.engine import HERE, Engine, pieces
from ernie_vil2.data.jobs.job import Job, opened
from ernie_vil2.data.jobs.lines import json_line, ledger_line, text_file
from ernie_vil2.data.jobs.picture import prepared, read_header
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.jobs.tars import ShardWriter
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable

MANIFEST, LEDGER = "manifest.json", "skipped.jsonl"
_BESIDE = 2048  # bytes of a record in a tar, beside its picture, about
_SAME, _NEAR = 0, 1  # why a record is a duplicate


@dataclass(frozen=True)
class Options:
    """What shards are made of.

    Attributes:
        dedup: "pair": of records with the same picture file and captions the first stays; "image":
            of records with the same picture file; "none": all stay.
        near: also drop pictures that look like an earlier one: so many of 64 bits may differ.
        side, quality: pictures with a longer side become JPEGs of this side and quality.
        records: of a shard; None: as many as `size` bytes hold, counted before re-encoding.
        piece: records that are hashed at a time; None: chosen.
    """

    dedup: str = "pair"
    near: int | None = None
    side: int | None = None
    quality: int = 90
    records: int | None = None
    size: int = 256 << 20
    piece: int | None = None


def write_shards(
    source: Source, out: Path, options: Options, engine: Engine, restart: bool = False
) -> dict[str, Any]:
    """Write `00000.tar` and so on, the ledger of what was left out, and the manifest, which is
    given back."""
    outputs = ["[0-9]*.tar", LEDGER, shard_index.PREPARED, MANIFEST]
    what = {"command": "shard", "format": 1, **asdict(options)}
    with opened(out, source, what, outputs, restart) as job:
        if not job.done:
            _write(job, source, options, engine)
            job.finish()
    return dict(durable.read_json(out / MANIFEST))


def _write(job: Job, source: Source, options: Options, engine: Engine) -> None:
    ranges = pieces(len(source.reader), options.piece)
    hashed = job.map("hash", Hash(source, options), ranges, engine)
    decide = Decide(hashed, len(source.reader), options)
    (decision,) = job.map("decide", decide, [range(len(source.reader))], HERE)
    edges = np.load(decision / "edges.npy")
    shards = [range(start, stop) for start, stop in zip(edges.tolist(), edges[1:].tolist())]
    written = job.map("write", WriteShard(source, decision, options), shards, engine)
    names = [f"{number:05d}.tar" for number in range(len(written))]
    for place, name in zip(written, names):
        with contextlib.suppress(FileNotFoundError):  # an interrupted run has moved it
            os.replace(place / "shard.tar", job.out / name)
    durable.sync(job.out)
    late = {number: reason for place in written for number, reason in _late(place)}
    skipped: Counter[str] = Counter()
    with durable.replaced(job.out / LEDGER) as draft, text_file(draft) as file:
        for kind, line in _skipped(hashed, decision, late):
            skipped[kind] += 1
            file.write(json_line(line))
    about = [durable.read_json(place / "shard.json") for place in written]
    manifest = {
        "format": 1,
        "source": {"dataset": dict(source.dataset), "records": len(source.reader)},
        "options": {name: value for name, value in asdict(options).items() if name != "piece"},
        "records": sum(shard["records"] for shard in about),
        "bytes": sum(shard["bytes"] for shard in about),
        "skipped": {kind: skipped[kind] for kind in ("bad", "same", "near")},
        "shards": [{"name": name, **shard} for name, shard in zip(names, about)],
    }
    if names:  # so that a run need not read the shards to know where its records lie
        shard_index.write_prepared([str(job.out / name) for name in names], str(job.out))
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    durable.replace_text(job.out / MANIFEST, text + "\n")


# -- 1. Hash ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hash:
    """Writes of each record its source, why it is none, or its hashes and bytes."""

    source: Source
    options: Options

    def __call__(self, piece: range, folder: Path) -> None:
        numbers: list[int] = []
        digests: list[bytes] = []
        sizes: list[int] = []
        looks: list[int] = []
        with text_file(folder / "sources.jsonl") as file:
            for number, record in self.source.records(piece):
                reason = None
                if isinstance(record, BadRecord):
                    reason = record.reason
                else:
                    try:
                        looks.append(self._look(record))
                    except ImageError as error:
                        reason = f"image: {error}"
                file.write(ledger_line(number, record.source, reason))
                if isinstance(record, Record) and reason is None:
                    numbers.append(number)
                    sizes.append(len(record.image))
                    texts = record.captions if self.options.dedup == "pair" else ()
                    parts = (text.encode(errors="surrogatepass") for text in texts)
                    digests.append(hashes.digest(record.image, *parts))
        np.save(folder / "numbers.npy", np.array(numbers, np.int64))
        np.save(folder / "sizes.npy", np.array(sizes, np.int64))
        np.save(folder / "looks.npy", np.array(looks, np.uint64))
        both = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        np.save(folder / "hashes.npy", both.astype(np.uint64))

    def _look(self, record: Record) -> int:
        if self.options.near is None:
            read_header(record.image)
            return 0
        return hashes.difference_hash(decode_image(record.image, min_size=64))


# -- 2. Decide -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decide:
    """Writes which records stay, where a shard begins among them, and what the others repeat."""

    hashed: Sequence[Path]
    size: int
    options: Options

    def __call__(self, piece: range, folder: Path) -> None:
        numbers, sizes = self._joined("numbers"), self._joined("sizes")
        repeated = np.zeros((0, 3), np.int64)
        if self.options.dedup != "none":
            first = hashes.first_of_each(self._blocks, self.size)[numbers]
            stays = first == numbers
            repeated = _rows(numbers[~stays], first[~stays], _SAME)
            numbers, sizes = numbers[stays], sizes[stays]
        if self.options.near is not None:
            # of all records, those that are the first with their bytes
            looks = self._joined("looks")[np.isin(self._joined("numbers"), numbers)]
            near = hashes.near_duplicates(numbers, looks, self.options.near)
            dropped = np.array(sorted(near), np.int64)
            firsts = np.array([near[number] for number in dropped.tolist()], np.int64)
            repeated = np.concatenate([repeated, _rows(dropped, firsts, _NEAR)])
            stays = ~np.isin(numbers, dropped)
            numbers, sizes = numbers[stays], sizes[stays]
        np.save(folder / "kept.npy", numbers)
        np.save(folder / "edges.npy", shard_edges(sizes, self.options))
        np.save(folder / "repeated.npy", repeated[np.argsort(repeated[:, 0])])

    def _blocks(self) -> Iterator[tuple[Numbers, hashes.Hashes]]:
        for place in self.hashed:
            yield np.load(place / "numbers.npy"), np.load(place / "hashes.npy")

    def _joined(self, name: str) -> NDArray[Any]:
        return np.concatenate([np.load(place / f"{name}.npy") for place in self.hashed])


def _rows(numbers: Numbers, firsts: Numbers, kind: int) -> Numbers:
    return np.stack([numbers, firsts, np.full_like(numbers, kind)], axis=1)


def shard_edges(sizes: Numbers, options: Options) -> Numbers:
    """Where each shard begins among the records that stay, and where the last one ends.

    Args:
        sizes: int64 [N], bytes of their pictures.
    """
    if options.records:
        starts = list(range(0, len(sizes), options.records))
        return np.array([*starts, len(sizes)] if starts else [0], np.int64)
    ends = np.cumsum(sizes + _BESIDE)
    edges = [0]
    while edges[-1] < len(sizes):
        before = int(ends[edges[-1] - 1]) if edges[-1] else 0
        fit = int(np.searchsorted(ends, before + options.size, side="right"))
        edges.append(max(fit, edges[-1] + 1))  # a picture larger than a shard has one for itself
    return np.array(edges, np.int64)


# -- 3. Write --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WriteShard:
    """Writes one shard: its tar, what is to be said of it, and what could not be written anew."""

    source: Source
    decision: Path
    options: Options

    def __call__(self, piece: range, folder: Path) -> None:
        kept = np.load(self.decision / "kept.npy", mmap_mode="r")
        digits = max(9, len(str(len(kept))))
        late: list[tuple[int, str]] = []
        path = folder / "shard.tar"
        with ShardWriter(path) as shard:
            numbers = kept[piece.start : piece.stop].tolist()
            for place, (number, record) in zip(piece, self.source.records(numbers)):
                if isinstance(record, BadRecord):
                    raise UserError(f"{record}: it could be read before; --restart does all anew")
                try:
                    image, extension = prepared(
                        record.image, self.options.side, self.options.quality
                    )
                except ImageError as error:
                    late.append((number, f"image: {error}"))
                    continue
                shard.add(f"{place:0{digits}d}", record, image, extension)
        about = {
            "records": shard.records,
            "bytes": path.stat().st_size,
            "sha256": durable.sha256(path),
        }
        (folder / "shard.json").write_text(json.dumps(about), encoding="utf-8")
        (folder / "late.json").write_text(json.dumps({"late": late}), encoding="utf-8")


# -- What was left out -----------------------------------------------------------------------------


def _late(place: Path) -> list[tuple[int, str]]:
    return [
        (int(number), reason) for number, reason in durable.read_json(place / "late.json")["late"]
    ]


def _skipped(
    hashed: Sequence[Path], decision: Path, late: dict[int, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, line of the ledger) of each record that is in no shard, by its number."""
    repeated = np.load(decision / "repeated.npy", mmap_mode="r")
    at = 0
    for place in hashed:
        with open(place / "sources.jsonl", encoding="utf-8") as file:
            for line in map(json.loads, file):
                kind = "bad"
                line["reason"] = line["reason"] or late.get(line["record"])
                if at < len(repeated) and int(repeated[at, 0]) == line["record"]:
                    kind = "near" if repeated[at, 2] == _NEAR else "same"
                    what = "looks like" if kind == "near" else "repeats"
                    line["reason"] = f"{what} record {int(repeated[at, 1])}"
                    at += 1
                if line["reason"]:
                    yield kind, line
