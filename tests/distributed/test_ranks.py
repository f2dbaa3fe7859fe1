"""Real fleet processes over gloo against one process."""

import json

import numpy as np
import pytest

from ernie_vil2 import distributed
from tests.support.paths import ROOT, SCRIPTS
from tests.support.processes import launch
from tests.support.shapes import write_run


def test_alone_it_is_rank_0_of_1():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.mean([1.5]) == [1.5]
    assert distributed.any_rank(True)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("one")
    launch(1, folder, SCRIPTS / "distributed_step.py", "1.npz")
    return dict(np.load(folder / "1.npz"))


@pytest.mark.parametrize("processes", [2, 4])
def test_many_processes_are_one(tmp_path, one_process, processes):
    """Loss, every gradient and their norm equal those of one process."""
    launch(processes, tmp_path, SCRIPTS / "distributed_step.py", "many.npz")
    one, many = one_process, dict(np.load(tmp_path / "many.npz"))
    assert one.keys() == many.keys()
    largest = max(np.abs(g).max() for name, g in one.items() if name.startswith("grad/"))
    for name in one:
        if name.endswith("/accuracy"):  # near-equal logits of untrained towers change places
            assert abs(one[name] - many[name]) <= 0.2
            continue
        scale = np.abs(one[name]).max()
        # a gradient that is nearly zero, as of a bias before a softmax, is rounding noise
        floor = 1e-6 * largest if name.startswith("grad/") else 0
        error = np.abs(one[name] - many[name]).max()
        assert error <= 1e-5 * scale + floor, (name, error, scale)


def test_training_and_evaluation_on_two_processes(tmp_path):
    config = write_run(tmp_path)
    out = tmp_path / "out"
    options = ["-c", str(config), "-o", "DataLoader.Train.batch_size=8"]
    launch(2, tmp_path, ROOT / "tools" / "train.py", *options)
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    steps = {x["step"]: x["train/loss"] for x in lines if "train/loss" in x}
    assert list(steps) == [1, 2, 3, 4]

    one = tmp_path / "one"
    launch(1, tmp_path, ROOT / "tools" / "train.py", *options, f"Global.output_dir={one}",
           "DataLoader.Train.batch_size=16")  # fmt: skip
    alone = [json.loads(x) for x in (one / "metrics.jsonl").read_text().splitlines()]
    # the same records in the same global batch, other dropout masks
    assert alone[0]["train/image1-image2"] == pytest.approx(lines[0]["train/image1-image2"], 1e-5)

    weights = ["-c", str(config), "-w", str(out)]
    for n in (1, 2):
        launch(
            n, tmp_path, ROOT / "tools" / "eval.py", *weights, "--out", str(tmp_path / f"eval{n}")
        )
    reports = [json.loads((tmp_path / f"eval{n}" / "report.json").read_text()) for n in (1, 2)]
    assert reports[0] == reports[1]


def test_resume_on_two_processes_repeats_the_uninterrupted_run(tmp_path):
    config = write_run(tmp_path)
    script = ROOT / "tools" / "train.py"
    options = ["-c", str(config), "-o", "DataLoader.Train.batch_size=8"]
    launch(2, tmp_path, script, *options)
    whole = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    parts = f"Global.output_dir={tmp_path}/parts"
    # the schedule is that of four steps; the run ends after two by a rule of its own: max_steps
    constant = "LRScheduler.name=Constant"
    launch(2, tmp_path, script, *options, parts, constant, "Global.max_steps=2")
    launch(2, tmp_path, script, *options, parts, constant, "--resume", "auto")
    launch(2, tmp_path, script, *options, constant, f"Global.output_dir={tmp_path}/constant")
    whole, parts = (
        [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("constant", "parts")
    )
    losses = [
        {x["step"]: x["train/loss"] for x in run if "train/loss" in x} for run in (whole, parts)
    ]
    assert losses[0] == losses[1]
