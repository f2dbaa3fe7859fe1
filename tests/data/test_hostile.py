"""What is damaged, odd or made to do harm costs itself alone: a line in the ledger."""

import contextlib
import json
import multiprocessing
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.data.decode import decode_image
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.image_file import ImageError
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.loader import TrainingLoader, TrainingViews
from ernie_vil2.data.order import GlobalBatches
from ernie_vil2.data.orders import EpochOrder
from ernie_vil2.data.records import BadRecord
from tests.data.test_loader import arrays, view_maker, vocab  # noqa: F401  # a fixture
from tests.support.hostile import rows
from tests.support.hostile.pictures import LOSSY, Picture, by_pillow, pictures
from tests.support.hostile.sets import write
from tests.support.hostile.tars import tar_records

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
FORMATS = ["tsv", "folder", "chinese_clip", "coco", "shards", "parquet"]
SECONDS = 5.0  # of a processor, for any one sample
BATCH = 16


def shown(picture: Picture):
    """The pixels, or None; and an error that is not for users is an error of the test."""
    started = time.thread_time()
    try:
        return decode_image(picture.data)
    except ImageError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return None
    finally:
        assert time.thread_time() - started < SECONDS, picture.name


def test_the_corpus_is_large_and_drawn_alike_each_time():
    drawn, again = ({p.name: p.data for p in pictures()} for _ in range(2))
    assert drawn == again and len(drawn) == len(pictures()) > 290
    of_rows = [rows.tsv, rows.folder, rows.chinese_clip, rows.chinese_clip_images]
    of_rows += [rows.coco, rows.coco_images, partial(tar_records, b"")]
    for make in of_rows:
        names = [row.name for row in make()]
        assert len(set(names)) == len(names)
    assert sum(len(list(make())) for make in of_rows) + len(rows.captions()) > 300


def test_pictures_show_what_they_are_or_are_refused():
    wrong = []
    for picture in pictures():
        found, expected, bound = shown(picture), picture.shows, picture.bound
        if isinstance(expected, str):  # either
            if found is None:
                continue
            expected, bound = by_pillow(picture.data), LOSSY
        if found is None or expected is None:
            wrong += [picture.name] * (found is not expected)
        elif found.shape != expected.shape or np.abs(found.astype(int) - expected).max() > bound:
            wrong.append(picture.name)
    assert not wrong


# -- Through readers and workers -------------------------------------------------------------------


def epoch(found, vocab, ledger):  # noqa: F811
    """An epoch of a set in its own order, by forked workers: (source, views or None) of each."""
    reader = build_reader(**found.dataset)
    views = TrainingViews(reader, view_maker(vocab), Ledger(ledger), seed=0)
    order = GlobalBatches(
        EpochOrder(len(reader), 0, False), BATCH, 0, 1, 0, -(-len(reader) // BATCH)
    )
    samples = []
    for (batch,) in arrays(TrainingLoader(views, order, 2, timeout=60)):
        for row, index in enumerate(batch["index"].tolist()):
            samples.append((source_of(reader, index), views_of(batch, row)))
    return samples[: len(reader)]


def source_of(reader, index):
    try:
        return reader[index].source
    except BadRecord as error:
        return error.source


def views_of(batch, row):
    """What training sees of a record, without the padding of its batch."""
    if not batch["valid"][row]:
        return None
    ids = {name: int(batch[name][row]) for name in ("image", "text")}
    pixels, tokens = batch["pixel_values"], batch["input_ids"]
    return (
        ids,
        [pixels[first + row].tobytes() for first in range(0, len(pixels), BATCH)],
        [np.trim_zeros(tokens[first + row]).tolist() for first in range(0, len(tokens), BATCH)],
    )


def tree(folder):
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", FORMATS)
def test_each_is_in_the_ledger_once_and_changes_no_other(name, vocab, tmp_path):  # noqa: F811
    hostile = write(name, tmp_path / "hostile")
    before = tree(tmp_path)
    samples = epoch(hostile, vocab, tmp_path / "bad.jsonl")
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    ledger = Counter(entry["source"] for entry in entries)
    missing = {hostile.bad[source] for source in hostile.bad.keys() - ledger.keys()}
    assert not missing
    assert not ledger.keys() - hostile.bad.keys(), [
        e for e in entries if e["source"] not in hostile.bad
    ]
    assert set(ledger.values()) == {1}
    assert all(entry["reason"] and len(entry["reason"]) < 1000 for entry in entries)
    assert {source for source, views in samples if views is None} == hostile.bad.keys()
    # nothing is written but the ledger and indexes
    changed = {
        path.name for path in dict(tree(tmp_path).items() - before.items()) if path.is_file()
    }
    assert all(n == "bad.jsonl" or n.endswith(".index") for n in changed), changed

    tame = epoch(write(name, tmp_path / "tame", tame=True), vocab, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()
    compared = 0
    for (source, views), (_, expected) in zip(samples, tame):
        if source in hostile.neighbours:
            assert views == expected, source
            compared += 1
    assert compared == len(hostile.neighbours) > 60


# -- What is left behind ---------------------------------------------------------------------------


def read_again_and_again(name, folder, pipe):
    """Open files and bytes of memory after each of several passes over the set."""
    reader, found = build_reader(**write(name, folder).dataset), []
    for _ in range(4):
        for index in range(len(reader)):
            started = time.thread_time()
            with contextlib.suppress(BadRecord, ImageError):
                decode_image(reader[index].image)
            assert time.thread_time() - started < SECONDS, source_of(reader, index)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        found.append((len(os.listdir("/proc/self/fd")), resident))
    pipe.send(found)


@pytest.mark.parametrize("name", FORMATS)
def test_no_file_stays_open_and_memory_does_not_grow(name, tmp_path):
    ours, its = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=read_again_and_again, args=(name, tmp_path / "set", its)
    )
    process.start()
    its.close()
    (files, first), *_, (files_after, last) = ours.recv()
    process.join()
    assert files_after == files
    assert last < first + (32 << 20)
