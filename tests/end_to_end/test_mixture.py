"""A run over two sources: what it logs of each, and that it goes on as if nothing had happened."""

import json
import re

import numpy as np
import pytest
import yaml

from ernie_vil2 import cli
from ernie_vil2.config.load import load_config
from tests.support.exact_runs import DRY, write
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.shapes import write_set
from tests.support.training_runs import assert_same, metrics, train, weights
from tools import eval as eval_tool
from tools import train as train_tool

EXACT = 1e-5
STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mixture")


@pytest.fixture(scope="module")
def config(folder):
    write_set(folder / "own.tsv", copies=1, seed=2)
    web = {"name": "tsv", "path": str(folder / "train.tsv"), "weight": 3}
    own = {"name": "tsv", "path": str(folder / "own.tsv"), "weight": 1}
    own["views"] = {"tags_prob": 0.0}
    dataset = {"name": "mixture", "sources": {"web": web, "own": own}}
    train_set = {"dataset": dataset, "global_batch_size": 16, "num_workers": 0}
    path = write(folder, DataLoader={"Train": train_set, "Eval": None})
    text = path.read_text().replace("max_steps: 4", f"max_steps: {STEPS}")
    path.write_text(text.replace("save_interval: 0", "save_interval: 3"))
    return path


def overrides(out, *more):
    return [f"Global.output_dir={out}", *DRY.split(","), *more]


@pytest.fixture(scope="module")
def one(folder, config):
    """The run on one process, which reads in a worker."""
    return train(config, *overrides(folder / "one", "DataLoader.Train.num_workers=1"))


def test_each_source_has_losses_and_epochs_of_its_own(one):
    whole, web, own = (metrics(one, f"train/{name}loss") for name in ("", "web/", "own/"))
    assert len(whole) == len(web) == len(own) == STEPS
    for step, loss in whole.items():  # 12 records of 16 are web's, in each batch
        assert (3 * web[step] + own[step]) / 4 == pytest.approx(loss, rel=1e-5)
        assert web[step] != own[step]
    accuracy = "image2-text2/accuracy"
    assert set(metrics(one, f"train/own/{accuracy}").values()) <= {k / 8 for k in range(9)}
    assert metrics(one, "train/web/epoch")[STEPS] == pytest.approx(12 * STEPS / 64)
    assert metrics(one, "train/own/epoch")[STEPS] == pytest.approx(4 * STEPS / 16)
    assert metrics(one, "train/epoch")[STEPS] == pytest.approx(16 * STEPS / 80)
    assert "of any records read: own 25.00%, web 75.00%" in (one / "train.log").read_text()


def test_two_processes_go_on_as_one_would(folder, config, one):
    begun = ["--resume", f"{one}/checkpoints/step_00000003"]
    out = folder / "two"
    launch(2, folder, ROOT / "tools/train.py", "-c", str(config), *begun, "-o", *overrides(out))
    ours = weights(out)
    for name, expected in weights(one).items():
        error = np.abs(ours[name] - expected).max()
        assert error <= EXACT * max(np.abs(expected).max(), 0.1), name
    for what in ("web/loss", "own/loss", "own/image2-text2", "own/epoch"):
        found = metrics(out, f"train/{what}")
        assert list(found) == [4, 5, 6]
        expected = {step: metrics(one, f"train/{what}")[step] for step in found}
        assert found == pytest.approx(expected, rel=EXACT, abs=2e-6)


def test_a_resume_goes_on_at_the_same_bits(folder, config, one):
    rest = overrides(folder / "again", "DataLoader.Train.micro_batch_size=null")
    train(config, *rest, resume=one / "checkpoints" / "step_00000003")
    assert_same(weights(folder / "again"), weights(one))


def test_micro_batches_and_merged_batches_know_their_rows(folder, config):
    both = ["DataLoader.Train.micro_batch_size=5", "Distributed.gradient_merge=2"]
    out = train(config, *overrides(folder / "micro", *both, "Global.max_steps=2"))
    whole, web, own = (metrics(out, f"train/{name}loss") for name in ("", "web/", "own/"))
    for step, loss in whole.items():
        assert (3 * web[step] + own[step]) / 4 == pytest.approx(loss, rel=1e-5)


def test_a_run_stops_when_its_first_source_is_read_up(folder, config):
    stop = ["DataLoader.Train.dataset.on_end=stop", "Global.epochs=1", "Global.max_steps=null"]
    out = train(config, *overrides(folder / "stop", *stop))
    assert max(metrics(out, "train/own/epoch").items()) == (4, 1.0)  # 16 records, 4 a step
    assert metrics(out, "train/epoch")[4] == 1.0


def test_the_doctor_knows_that_a_batch_may_hold_all_of_a_small_source_and_more(config, capsys):
    more = [
        "DataLoader.Train.global_batch_size=64",
        "DataLoader.Train.dataset.sources.own.weight=3",
    ]
    assert cli.run(train_tool.main, ["-c", str(config), "--doctor", "-o", *more]) == 0
    assert re.search(r"^different data +pass", capsys.readouterr().out, re.MULTILINE)


def test_an_evaluation_scores_each_source_apart(folder, config, one):
    """As an evaluation of it alone does: among its own images and texts."""
    run = load_config(config).to_dict()
    sets = {name: {"name": "tsv", "path": str(folder / f"{name}.tsv")} for name in ("test", "own")}
    mixture = {"name": "mixture", "sources": sets}

    def report(name, dataset):
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump(
                {**run, "DataLoader": {**run["DataLoader"], "Eval": {"dataset": dataset}}}
            )
        )
        argv = ["-c", str(folder / f"{name}.yaml"), "-w", str(one), "--out", str(folder / name)]
        assert cli.run(eval_tool.main, argv) == 0
        return json.loads((folder / name / "report.json").read_text())

    mixed = report("mixed", mixture)
    assert mixed["text_to_image"]["candidates"] == 32
    for name, dataset in sets.items():
        alone = report(name, dataset)
        assert mixed["sources"][name] == {n: alone[n] for n in mixed["sources"][name]}
    assert "own alone: mean recall of both directions" in (folder / "mixed/page.html").read_text()
    more = ["DataLoader.Train.num_workers=0", "Global.max_steps=1", "Global.eval_interval=1"]
    out = train(folder / "mixed.yaml", *overrides(folder / "evaluated", *more))
    for way in ("text_to_image/R@1", "mean_recall"):
        assert all(metrics(out, f"eval/{name}{way}") for name in ("", "test/", "own/"))
