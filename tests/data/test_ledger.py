"""The ledger of bad records, which several processes write."""

import json
import multiprocessing
import os
import pickle
import tracemalloc

import pytest

from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError

FORK = multiprocessing.get_context("fork")


def test_ledger_of_several_processes(tmp_path):
    path = tmp_path / "run" / "bad.jsonl"
    ledger = Ledger(path)
    assert ledger.count == 0

    def add():
        for i in range(50):
            ledger.add(BadRecord(f"数据.tsv:{i}", "first\nline"))
        ledger.add(BadRecord(f"own:{os.getpid()}", "x"))

    workers = [FORK.Process(target=add) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 54 == len({line["source"] for line in lines}) == ledger.count
    assert lines[0]["reason"] == "first line"
    path.write_text(path.read_text() + '{"source": "torn')  # a process died here
    again = pickle.loads(pickle.dumps(Ledger(path)))
    again.add(BadRecord("数据.tsv:0", "seen before the resume"))
    again.add(BadRecord("new:1", "y"))
    assert again.count == ledger.count == 55
    with pytest.raises(UserError, match="cannot write"):
        Ledger(path / "no" / "bad.jsonl").add(BadRecord("a:1", "b"))


def test_a_large_ledger_takes_little_memory_and_reads_what_another_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr("ernie_vil2.data.ledger._BLOCK", 1000)
    path, count = tmp_path / "bad.jsonl", 20_000
    rows = (json.dumps({"source": f"a.tsv:{i}", "reason": "x"}) + "\n" for i in range(count))
    path.write_text("".join(rows) + '{"source": 1}\n')
    ledger = Ledger(path)
    tracemalloc.start()
    assert ledger.count == count
    assert tracemalloc.get_traced_memory()[0] < 40 * count  # the names alone take 60 bytes each
    tracemalloc.stop()
    for source in ("a.tsv:0", "a.tsv:9999", f"a.tsv:{count - 1}", "a\udce9.tsv:1", "a\udce9.tsv:1"):
        ledger.add(BadRecord(source, "y"))
    assert Ledger(path).count == ledger.count == count + 1


def test_a_long_reason_is_cut_and_keeps_its_end():
    reason = BadRecord("a:1", f"cannot read image {'a/' * 50_000}: File name too long").reason
    assert len(reason) < 700
    assert reason.startswith("cannot read image a/a/") and reason.endswith("File name too long")
