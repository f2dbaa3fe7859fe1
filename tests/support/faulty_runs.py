"""Launches of `faulty_train.py`: what to break in a run of two processes, and what it left."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from ernie_vil2.checkpoints import store
from tests.support.paths import SCRIPTS
from tests.support.processes import on_small_disk
from tests.support.shapes import write_run

# A launch's code where all ranks end with 1: theirs, or that of the launcher's own signal where one
# of them has ended and another, on a machine at work, is still leaving.
FAILED = (1, 256 - signal.SIGTERM)


class Runs:
    """What a launch of a plan left behind, by the names of its runs."""

    def __init__(self, folder: Path, plan: list, disk: Path | None = None):
        self.folder = folder
        logs = folder / f"{plan[-1]['name']}.log"
        (folder / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", str(logs)]
        command += ["--nproc_per_node", "2", str(SCRIPTS / "faulty_train.py")]
        command.append(str(folder / "plan.json"))
        environment = {**os.environ, "ERNIE_VIL2_TEST": "1"}
        environment.pop("OMP_NUM_THREADS", None)
        done = subprocess.run(
            [*(on_small_disk(disk) if disk else []), *command],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        self.ended = time.time()
        self.code = done.returncode
        self.logs = [(logs / f"workerlog.{rank}").read_text() for rank in (0, 1)]

    def output(self, name: str) -> Path:
        """The run's folder, or what was copied of it."""
        copied = self.folder / f"{name}.after"
        return copied if copied.exists() else self.folder / name

    def log(self, name: str, rank: int = 0) -> str:
        """What a rank printed in this run."""
        printed = self.logs[rank].split(f"=== {name} begins")[1]
        return printed.split(f"=== {name} ended")[0]

    def code_of(self, name: str) -> list:
        return [re.findall(f"=== {name} ended with code (.*)", log)[0] for log in self.logs]

    def notes(self, name: str, rank: int = 0) -> list:
        return lines(self.folder / f"{name}-{rank}.jsonl")

    def faults(self, name: str) -> list:
        return lines(self.output(name) / "faults.jsonl")

    def metrics(self, name: str) -> dict:
        return {line["step"]: line for line in lines(self.output(name) / "metrics.jsonl")}


def lines(path: Path) -> list:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(x, parse_constant=refuse) for x in path.read_text("utf-8").splitlines()]


def fault(name: str, batch: int, rank: int | None = None, **arguments) -> dict:
    return {"fault": name, "batch": batch, "rank": rank, **arguments}


def stretch(*batches: int) -> list:
    return [fault("nan", batch, rank=0, row=0) for batch in batches]


def run(name: str, folder: Path, *overrides, faults=(), resume=None) -> dict:
    config = folder / "run.yaml"
    if not config.exists():
        write_run(folder)
    arguments = ["-c", str(config), "-o", f"Global.output_dir={folder / name}"]
    arguments += ["Global.epochs=1000", "DataLoader.Eval=null", "DataLoader.Train.batch_size=8"]
    arguments += ["Faults.skips=3", *overrides]
    arguments += ["--resume", resume] if resume else []
    return {"name": name, "arguments": arguments, "faults": list(faults)}


# A text tower without dropout, whose two equal texts cannot but match: a mismatch is a spike.
SPIKY = [
    "Faults.spike=1.5",
    "Arch.Text.hidden_dropout_prob=0.0",
    "Arch.Text.attention_probs_dropout_prob=0.0",
    "Arch.Text.initializer_range=0.3",
    "Views.draw.tags_prob=0.0",
    "Loss.logit_scale.init=100",
]


def broken_data(name: str, folder: Path, *overrides, merge: int = 1, faults=()) -> dict:
    """Of 40 steps, step 5 has a NaN, step 29 a spike, steps 34 to 36 are rolled back to step 30."""
    settings = ["Global.max_steps=40", "Global.save_interval=5", "Global.keep_checkpoints=9"]
    data = [
        fault("nan", 4 * merge, rank=1, row=2),
        fault("mismatch", 28 * merge),
        *stretch(33 * merge, 34 * merge, 35 * merge),
    ]
    return run(name, folder, *settings, *SPIKY, *overrides, faults=[*data, *faults])


def broken_disk(name: str, folder: Path, broken: list, whole: list) -> dict:
    """Of 28 steps, 5 to 15 are done without disk space; `broken` and `whole` take and give it."""
    # the checkpoint of step 14 is refused before space comes back, and 16 is the next
    copy = fault("copy_checkpoints", 15, rank=0, to=str(folder / f"{name}.checkpoints"))
    faults = [*broken, fault("damage", 4, rank=0), *stretch(7), *whole, copy, *stretch(16)]
    settings = ["Global.max_steps=28", "Global.save_interval=2", "Global.keep_checkpoints=2"]
    return run(name, folder, *settings, faults=faults)


def strip(notes: list) -> list:
    """What has to be alike: which records, and weights to the last bit."""
    return [{k: n[k] for k in ("step", "batch", "index", "weights")} for n in notes]


def check_broken_data(runs: Runs, name: str, merge: int = 1) -> None:
    assert runs.code_of(name) == ["0", "0"], runs.log(name)
    both = [runs.notes(name, rank) for rank in (0, 1)]
    assert [n["weights"] for n in both[0]] == [n["weights"] for n in both[1]]

    # each step is done over the batch behind the one before, but 34 to 36 go back to step 30
    steps = [*range(36), *range(30, 40)]
    assert [(n["step"], n["batch"]) for n in both[0]] == [
        (step, turn * merge) for turn, step in enumerate(steps)
    ]
    latest = store.find_latest(runs.output(name) / "checkpoints")
    state = store.read_state(latest)
    assert (state["step"], state["batch"]) == (40, 46 * merge)

    # a skipped step leaves the weights as they are, the others do not
    weights = [n["weights"] for n in both[0]]
    unchanged = [turn for turn in range(45) if weights[turn] == weights[turn + 1]]
    assert unchanged == [4, 28, 33, 34]
    assert weights[36] == weights[30]  # the stretch is rolled back

    # the file names the records: the one with NaN, or all of a global batch that matches badly
    shares = [[n["index"] for n in notes] for notes in both]
    rows = read_rows(runs.folder / "train.tsv")
    expected = [
        (4, [shares[1][4][2]]),
        (28, shares[0][28] + shares[1][28]),
        *((turn, [shares[0][turn][0]]) for turn in (33, 34, 35)),
    ]
    for found, (turn, indices) in itertools.zip_longest(runs.faults(name), expected):
        assert (found["step"], found["batch"]) == (turn + 1, turn * merge)
        assert [record["index"] for record in found["records"]] == indices
        for record in found["records"]:
            assert record["id"] == rows[record["index"]]
            assert record["source"].endswith(f"train.tsv:{record['index'] + 1}")
    nan, spike = runs.faults(name)[:2]
    assert nan["reason"] == "the loss is nan" and nan["loss"] is None
    assert re.search(r"the loss is .*, [\d.]+ times the usual", spike["reason"])
    assert spike["loss"] > 10 and math.isfinite(spike["gradient_norm"])

    # `lines` has seen no NaN in it
    metrics = runs.metrics(name)
    assert sorted(metrics) == sorted({*range(1, 41)} - {5, 29, 34, 35, 36} | {34, 35, 36})
    skipped = {step: metrics[step]["train/skipped_steps"] for step in (4, 6, 28, 30, 33, 40)}
    assert skipped == {4: 0, 6: 1, 28: 1, 30: 2, 33: 5, 40: 5}
    assert all(line["train/loss"] < 30 for line in metrics.values())


def read_rows(path: Path) -> list:
    return [line.split("\t")[1] for line in path.read_text().splitlines()]
