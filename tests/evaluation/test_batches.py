"""An evaluation's rows: each is read or named, whatever else a batch holds or kills a worker."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from ernie_vil2.data.formats.reader import Reader
from ernie_vil2.data.records import BadRecord, Record
from ernie_vil2.data.transforms import ImageError
from ernie_vil2.errors import UserError
from ernie_vil2.evaluation.batches import Rows, check_rows


def records(count: int, bad=()):
    """Readable records, but for `bad`: whole rows where even, pictures where odd."""

    class Reader(list):
        def __getitem__(self, row):
            if row in bad and row % 2 == 0:
                raise BadRecord(f"set:{row + 1}", "blank line")
            image = b"bad" if row in bad else b"%d" % row
            return Record(str(row), image, (f"text {row}",), (), f"set:{row + 1}")

    return Reader(range(count))


def transform(image) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return np.zeros([3, 2, 2], np.float32)
    if image == b"bad":
        raise ImageError("damaged")
    return np.full([3, 2, 2], int(image), np.float32)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "count, batch_size, bad",
    [
        (65, 64, [64]),  # the last batch holds nothing else
        (10, 1, [3]),
        (6, 2, [0, 1]),  # the first batch
        (3, 8, [0, 1, 2]),
        (4, 4, []),
    ],
)
def test_nothing_is_lost(count, batch_size, bad, workers):
    seen, found = [], []
    for batch in Rows(records(count, bad), transform, batch_size, workers):
        assert len(batch["pixels"]) == len(batch["rows"])
        for row, pixels in zip(batch["rows"], batch["pixels"]):
            assert (pixels == row.number).all() and row.captions == (f"text {row.number}",)
            seen.append(row.number)
        found += [error.source for error in batch["bad"]]
    assert seen == [row for row in range(count) if row not in bad]
    assert found == [f"set:{row + 1}" for row in bad]
    assert not multiprocessing.active_children()


def test_a_reader_is_told_ahead(monkeypatch):
    told, asked = [], []

    class Told(Reader):
        def __len__(self):
            return 10

        def _get(self, position):
            asked.append((position, len(told)))
            return Record(str(position), b"1", ("text",), (), "set")

        def prefetch(self, positions):
            told.append(list(positions))

    monkeypatch.setattr("ernie_vil2.evaluation.batches._AHEAD", 2)
    assert len(list(Rows(Told(), transform, 3))) == 4
    assert told == [[3, 6], [6, 9], [9], []]
    assert asked == [(row, row // 3 + 1) for row in range(10)]  # after it was told


def test_a_killed_worker_costs_nothing(logged):
    batches = iter(Rows(records(40), transform, 1, 1))
    seen = [next(batches)["rows"][0].number]
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    seen += [batch["rows"][0].number for batch in batches]
    assert seen == list(range(40)) and "restarted" in logged.text


@pytest.mark.parametrize("bad, source", [([2, 5], "set:3"), ([64], "set:65")])
def test_a_bad_row_is_found_beforehand(bad, source):
    with pytest.raises(UserError, match=f"^{source}: .*--skip-bad"):
        check_rows(Rows(records(65, bad), transform, 64, 1))
    check_rows(Rows(records(65), transform, 64))
    alone = [Record("a", b"1", (), (), "set:1"), Record("", b"", ("text",), (), "set:2")]
    with pytest.raises(UserError, match="no pair to score"):
        check_rows(Rows(alone, transform, 64))
    assert not multiprocessing.active_children()
