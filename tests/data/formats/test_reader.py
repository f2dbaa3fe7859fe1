"""Readers in other processes."""

import multiprocessing
import os
import pickle

from ernie_vil2.data.formats.build import build_reader
from tests.support.rows import b64, png, write

FORK = multiprocessing.get_context("fork")


def read_all(reader) -> list:
    return [(os.getpid(), record.captions[0], record.image) for record in reader]


def test_readers_work_in_forked_and_pickled_form(tmp_path):
    rows = [b"text %d\tid\t%s" % (i, b64(png(i))) for i in range(20)]
    reader = build_reader("tsv", path=write(tmp_path / "a.tsv", *rows))
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
    joined = build_reader(
        "chinese_clip",
        imgs=write(tmp_path / "i.tsv", b"1\tAAAA"),
        texts=write(tmp_path / "t.jsonl", {"text": "x", "image_ids": [1]}),
    )
    assert pickle.loads(pickle.dumps(joined))[0] == joined[0]
