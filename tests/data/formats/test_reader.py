"""What all readers have: their order, and that they work in other processes."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.orders import EpochOrder
from ernie_vil2.errors import UserError
from tests.support.packed import WRITERS
from tests.support.rows import png, write
from tests.support.tars import pair, write_tar

FORK, SPAWN = map(multiprocessing.get_context, ("fork", "spawn"))


def read_all(reader) -> list:
    return [(os.getpid(), record.captions[0], record.image) for record in reader]


@pytest.mark.parametrize("name", WRITERS)
def test_readers_work_in_forked_and_pickled_form(tmp_path, name):
    reader = build_reader(name, **WRITERS[name](tmp_path, [png(i) for i in range(20)]))
    expected = [(f"text {i}", png(i)) for i in range(20)]
    assert [item[1:] for item in read_all(reader)] == expected
    with FORK.Pool(3) as pool:
        pickled = pool.map(read_all, [reader] * 3, chunksize=1)
    assert all([item[1:] for item in result] == expected for result in pickled)
    queue = FORK.Queue()
    workers = [FORK.Process(target=lambda: queue.put(read_all(reader))) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=30) for _ in workers]
    assert len({result[0][0] for result in results}) == 3
    assert all([item[1:] for item in result] == expected for result in results)
    with SPAWN.Pool(1) as pool:
        assert [item[1:] for item in pool.apply(read_all, [reader])] == expected
    assert [item[1:] for item in read_all(reader)] == expected  # the parent's own is as it was


def test_a_joined_reader_in_pickled_form(tmp_path):
    joined = build_reader(
        "chinese_clip",
        imgs=write(tmp_path / "i.tsv", b"1\tAAAA"),
        texts=write(tmp_path / "t.jsonl", {"text": "x", "image_ids": [1]}),
    )
    assert pickle.loads(pickle.dumps(joined))[0] == joined[0]


def test_orders_of_a_reader(tmp_path):
    tsv = build_reader("tsv", path=write(tmp_path / "a.tsv", *[b"x\ty\tAAAA"] * 40))
    members = [member for n in range(40) for member in pair(str(n))]
    shards = build_reader("shards", path=write_tar(tmp_path / "a.tar", *members))
    positions = np.arange(100)
    for reader in (tsv, shards):
        for shuffle in (True, False):
            expected = EpochOrder(40, 3, shuffle)(positions)
            assert np.array_equal(reader.order(3, shuffle)(positions), expected)
        everywhere = reader.order(3, {"mode": "global", "window": 2})(positions)
        assert np.array_equal(everywhere, EpochOrder(40, 3, True)(positions))
    near = shards.order(3, {"mode": "shards", "window": 2})
    assert sorted(near(positions[:40])) == list(range(40))
    with pytest.raises(UserError, match="mode shards, for which the data set has no shards: set"):
        tsv.order(3, {"mode": "shards", "window": 2})
