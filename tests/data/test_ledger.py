"""The ledger of bad records, which several processes write."""

import json
import multiprocessing
import os
import pickle

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


def test_a_long_reason_is_cut_and_keeps_its_end():
    reason = BadRecord("a:1", f"cannot read image {'a/' * 50_000}: File name too long").reason
    assert len(reason) < 700
    assert reason.startswith("cannot read image a/a/") and reason.endswith("File name too long")
