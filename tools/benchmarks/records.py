"""`bench.py records`: the start of a run, and its workers' memory, by the size of the data set."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ernie_vil2 import cli

ABOUT = """How long a run over so many records takes to start (open the index, find the order, read
the first batches by workers) and what memory a worker has then. Simulated: the index is a real one,
but of a TSV of which only the rows that are read are written."""
QUICK = {"sizes": [10**5, 10**7], "batch": 8, "batches": 4, "pixels": 32}
_ROW = 256  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of this benchmark."""
    parser.add_argument(
        "--sizes",
        type=cli.positive,
        nargs="+",
        default=[10**5, 10**8],
        metavar="N",
        help="records (100000 100000000); the index of 10^8 takes 1.6 GB of disk",
    )
    parser.add_argument("--batch", type=cli.positive, default=128, help="pairs (128)")
    parser.add_argument("--batches", type=cli.positive, default=8, help="that are read (8)")
    parser.add_argument("--pixels", type=cli.positive, default=224, help="of a side (224)")
    parser.add_argument("--workers", type=cli.positive, default=2, help="processes (2)")
    parser.add_argument("--folder", type=Path, help="for the data (the system's for such)")


def check(options) -> None:
    """All sizes make sense."""


def run(report, options) -> None:
    """One table: a row for each size."""
    from benchmarks.common import mebibytes, run_apart, seconds

    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            what = {"size": size, "batch": options.batch, "batches": options.batches}
            run_apart("benchmarks.records", "prepare", folder=folder, **what)
            what.update(pixels=options.pixels, workers=options.workers)
            rows.append(run_apart("benchmarks.records", "measure", folder=folder, **what))
    report.table(
        "records",
        "Start by the size of the set",
        {
            "records": ("records", "{:,}".format),
            "index": ("index", mebibytes),
            "open": ("open it, find the order (CPU)", seconds),
            "first": ("first batch", seconds),
            "anonymous": ("a worker's own memory", mebibytes),
            "resident": ("its resident memory, with libraries and shared", mebibytes),
        },
        rows,
        f"A worker's memory is the largest after {options.batches} batches of {options.batch} "
        f"pairs at {options.pixels} px by {options.workers} workers, two image views.",
    )


def prepare(folder: str, size: int, batch: int, batches: int) -> None:
    """A TSV of `size` rows, a sparse file, with the rows of the first batches and its index."""
    import base64

    import cv2
    import numpy as np

    from ernie_vil2.data.formats import index
    from ernie_vil2.data.orders import EpochOrder

    path = Path(folder) / "train.tsv"
    picture = cv2.imencode(".png", np.zeros([8, 8, 3], np.uint8))[1].tobytes()
    with open(path, "wb") as file:
        file.truncate(size * _ROW)
        for row in EpochOrder(size, 0, True)(np.arange(batch * batches)):
            text = b"a red dot\t%d\t%s" % (row, base64.b64encode(picture))
            file.seek(max(0, row * _ROW - 1))
            file.write(b"\n" * (row > 0) + text.ljust(_ROW - 1) + b"\n")

    def spans(write) -> None:
        for first in range(0, size, 1 << 20):
            starts = np.arange(first, min(first + (1 << 20), size)) * _ROW
            write("spans", np.stack([starts, starts + _ROW - 1], axis=1))

    index.cached([str(path)], "lines", spans)


def measure(folder: str, size: int, batch: int, batches: int, pixels: int, workers: int) -> dict:
    """A row of the table."""
    import multiprocessing

    from benchmarks.common import ROOT
    from benchmarks.common import status as status_of

    from ernie_vil2.config.load import load_config
    from ernie_vil2.data.formats.build import build_reader
    from ernie_vil2.data.ledger import Ledger
    from ernie_vil2.data.loader import TrainingLoader, TrainingViews
    from ernie_vil2.data.order import GlobalBatches
    from ernie_vil2.data.tokenize import Tokenizer
    from ernie_vil2.data.train_transform import TrainTransform
    from ernie_vil2.data.views import ViewMaker

    sizes = [f"{key}={pixels}" for key in ("Transform.size", "Arch.Image.img_size")]
    config = load_config(ROOT / "configs/base.yaml", sizes)
    vocab = Path(folder) / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "red", "dot"]))
    views = ViewMaker(
        **config.Views, transform=TrainTransform(**config.Transform), tokenizer=Tokenizer(vocab)
    )
    ledger = Ledger(Path(folder) / "bad.jsonl")
    start, start_of_cpu = time.monotonic(), time.process_time()
    reader = build_reader("tsv", path=str(Path(folder) / "train.tsv"))
    order = GlobalBatches(reader.order(0, True), batch, 0, 1, 0, batches)
    found: dict = {"records": len(reader), "anonymous": 0, "resident": 0}
    found["open"] = time.process_time() - start_of_cpu
    loader = TrainingLoader(TrainingViews(reader, views, ledger, 0), order, workers)
    for (taken,) in loader:
        assert bool(taken["valid"].all()), "a row that was written is no record"
        found.setdefault("first", time.monotonic() - start)
        for child in multiprocessing.active_children():
            for key, name in (("anonymous", "RssAnon"), ("resident", "VmRSS")):
                found[key] = max(found[key], status_of(name, child.pid))
    (place,) = Path(folder).glob(".*.index")
    return {**found, "index": place.stat().st_size}
