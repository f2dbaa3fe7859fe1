"""Runs that read shards from an S3 server, which fails."""

import json
from pathlib import Path

import pytest

from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.shard_index import PREPARED, write_prepared
from tests.support.shapes import write_run
from tests.support.stores import S3, s3_server
from tests.support.tars import write_shards
from tests.support.training_runs import assert_same, metrics, train, weights

LENGTHS = [16, 16, 16, 10, 6]  # of the 64 records


@pytest.fixture
def s3(tmp_path):
    with s3_server(tmp_path) as server:
        yield server


def stored(s3: S3, config: Path, folder: Path) -> None:
    """The run's training set as shards, in the folder and, as set/, in the store."""
    records = build_reader("tsv", path=str(config.parent / "train.tsv"))
    write_shards(folder, records, LENGTHS)
    write_prepared(sorted(map(str, folder.glob("*.tar"))), str(folder))
    for path in folder.iterdir():
        s3.put(f"set/{path.name}", path.read_bytes())


def test_a_shard_that_stays_away_is_in_the_ledger_and_the_run_goes_on(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    config = write_run(tmp_path, Global={"max_steps": 4})
    stored(s3, config, tmp_path / "set")
    common = [
        "DataLoader.Train.num_workers=2",
        "DataLoader.Train.shuffle={mode: shards, window: 2}",
        "DataLoader.store.attempts=2",
        "DataLoader.Eval=null",
    ]

    def run(name: str, path: str) -> Path:
        dataset = f"DataLoader.Train.dataset={{name: shards, path: '{path}'}}"
        store = f"DataLoader.store.cache_dir={tmp_path / f'cache-{name}'}"
        return train(config, f"Global.output_dir={tmp_path / name}", dataset, store, *common)

    here = run("here", str(tmp_path / "set"))
    assert not s3.requests("GET")
    urls = "s3://data/set/{000..004}.tar"
    there = run("there", urls)
    assert_same(weights(there), weights(here))
    assert metrics(there) == metrics(here) and not (there / "bad_records.jsonl").exists()
    shards = [f"/data/set/{number:03}.tar?" for number in range(5)]
    asked = [path for path in s3.requests("GET") if "list-type" not in path]
    assert sorted(asked) == [*shards, f"/data/set/{PREPARED}?"]  # once each, for all processes

    s3.fail("set/003.tar")  # 10 of 64 records
    failing = run("failing", urls)
    (entry,) = map(json.loads, (failing / "bad_records.jsonl").read_text().splitlines())
    assert entry["source"] == "s3://data/set/003.tar"
    assert "cannot be had: Service Unavailable (HTTP 503) (attempt 2" in entry["reason"]
    assert metrics(failing).keys() == metrics(here).keys()
