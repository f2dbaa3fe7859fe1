"""Runs that read tar shards: what they learn is in the records and their order, not in the tars."""

import base64
from pathlib import Path

import numpy as np
import pytest

from ernie_vil2.data.formats.build import build_reader
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.shapes import write_run
from tests.support.tars import write_shards
from tests.support.training_runs import assert_same, metrics, train, weights

LENGTHS = [20, 0, 1, 30, 13]  # of the 64 records
STEPS, BATCH, WINDOW = 6, 16, 2  # so the fifth batch begins the second epoch
SHUFFLE = {"mode": "shards", "window": WINDOW}


@pytest.fixture
def config(tmp_path) -> Path:
    return write_run(tmp_path, Global={"max_steps": STEPS, "epochs": 99, "sample_views": 1})


def as_shards(config: Path, folder: Path) -> list[str]:
    """Overrides that read the run's sets as shards."""
    overrides = []
    for loader, name, lengths in (("Train", "train", LENGTHS), ("Eval", "test", [3, 0, 13])):
        records = build_reader("tsv", path=str(config.parent / f"{name}.tsv"))
        path = write_shards(folder / name, records, lengths)
        overrides.append(f"DataLoader.{loader}.dataset={{name: shards, path: '{path}'}}")
    return overrides


def test_a_run_from_shards_is_that_of_the_same_records_in_that_order(config, tmp_path):
    shards = as_shards(config, tmp_path)
    reader = build_reader("shards", path=str(tmp_path / "train" / "*.tar"))
    positions = reader.order(42, SHUFFLE)(np.arange(STEPS * BATCH))
    rows = []
    for record in map(reader.__getitem__, positions):
        image = base64.b64encode(record.image).decode()
        rows.append(f"{record.captions[0]}\t{record.id}\t{image}\t{'|'.join(record.tags)}\n")
    (tmp_path / "ordered.tsv").write_text("".join(rows), encoding="utf-8")
    expected = train(
        config,
        f"Global.output_dir={tmp_path / 'tsv'}",
        f"DataLoader.Train.dataset.path={tmp_path / 'ordered.tsv'}",
        "DataLoader.Train.shuffle=false",
    )
    found = train(
        config,
        f"Global.output_dir={tmp_path / 'shards'}",
        *shards,
        f"DataLoader.Train.shuffle={SHUFFLE}",
        "DataLoader.Train.num_workers=2",
    )
    assert_same(weights(found), weights(expected))
    assert metrics(found) == metrics(expected) and len(metrics(found)) == STEPS
    recalls = metrics(found, "eval/mean_recall")
    assert recalls == metrics(expected, "eval/mean_recall") and recalls.keys() == {STEPS}
    assert not (found / "bad_records.jsonl").exists()


@pytest.mark.slow
def test_two_processes_share_the_shards_records(config, tmp_path):
    """The doctor compares what the ranks read with what one process reads."""
    shards = as_shards(config, tmp_path)
    overrides = [*shards, f"DataLoader.Train.shuffle={SHUFFLE}", "DataLoader.Train.batch_size=8"]
    argv = ["-c", str(config), "--doctor", "-o", *overrides]
    printed = launch(2, tmp_path, ROOT / "tools" / "train.py", *argv)
    assert "global batches of 16 records are disjoint and whole" in printed
    assert "records read as one process reads them" in printed
