"""Curves in VisualDL, TensorBoard and Weights & Biases, read by their own readers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ernie_vil2 import cli
from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train
from tools import train as train_tool

SINKS = "Global.log_to=[tensorboard, wandb]"


def test_curves_elsewhere(tmp_path, monkeypatch):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal import datastore

    monkeypatch.setenv("WANDB_MODE", "offline")
    more = ["Global.histogram_interval=2", "Global.sample_views=1"]
    config = write_run(tmp_path)
    out = train(config, SINKS, *more, "Global.max_steps=2", "Global.save_interval=2")
    train(config, SINKS, *more, "Global.max_steps=4", resume="auto")
    assert not (out / "vdl").exists()
    loss, recall = metrics(out), metrics(out, "eval/text_to_image/R@1")

    board = loader.EventAccumulator(str(out / "tensorboard")).Reload()
    assert {e.step: np.float32(e.value) for e in board.Scalars("train/loss")} == {
        step: np.float32(value) for step, value in loss.items()
    }
    assert {e.step for e in board.Scalars("eval/text_to_image/R_1")} == set(recall)
    tags = board.Tags()
    assert "views/0/image1" in tags["images"] and len(tags["histograms"]) > 10
    assert any("views/0/text1" in name for name in tags["tensors"])

    # two files, of the run and of its resume, of one run
    rows, names = [], set()
    for path in sorted(out.glob("wandb/offline-run-*/run-*.wandb")):
        names.add(path.stem)
        file = datastore.DataStore()
        file.open_for_scan(str(path))
        while (data := file.scan_data()) is not None:
            record = wandb_internal_pb2.Record.FromString(data)
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        file.close()
    assert len(names) == 1
    found = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert found == pytest.approx(loss)
    shown = {key for row in rows for key in row}
    assert {"views/0/image1/path", "views/0/text1/path"} <= shown


def test_none(tmp_path):
    out = train(write_run(tmp_path), "Global.log_to=[]", "Global.max_steps=1")
    assert not (out / "vdl").exists() and metrics(out)


@pytest.mark.parametrize(
    ("name", "said"), [("tensorboard", "pip install tensorboardX"), ("wandb", "pip install wandb")]
)
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys, name, said):
    module = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    argv = ["-c", str(write_run(tmp_path)), "-o", f"Global.log_to=[{name}]"]
    assert cli.run(train_tool.main, argv) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_weights_and_biases_without_a_key_is_one_line(tmp_path):
    pytest.importorskip("wandb")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC"))}
    environment |= {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment["WANDB_ERROR_REPORTING"] = "false"
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(write_run(tmp_path))]
    result = subprocess.run(
        [*command, "-o", "Global.log_to=[wandb]"],
        **{"env": environment, "capture_output": True, "text": True, "timeout": 120},
    )
    assert result.returncode == 2
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: Weights & Biases:") and "WANDB_MODE=offline" in line
