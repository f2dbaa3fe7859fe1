"""A whole study, by the command, killed half-way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tests.support.training_runs import metrics


def study(tmp_path, **changes):
    path, run = tmp_path / "study.yaml", tmp_path / "run"
    run.mkdir(exist_ok=True)
    plan = {
        "config": str(write_run(run)),
        "output_dir": str(tmp_path / "a study"),
        "seeds": [3],
        "test": {"DataLoader.Eval.dataset.path": str(tmp_path / "two.tsv")},
        "equal": ["steps", "time"],
        "figures": {"R@1": "text_to_image/R@1", "MRR": "text_to_image/mrr"},
        "variants": {
            "one pair": {"Views.image": ["image1"], "Views.text": ["text1"]},
            "on from there": {
                "before": ["convert --from {run one pair} --to ernie_vil2 --out {study}/{seed}"],
                "set": {"Global.pretrained": "{run one pair}"},
            },
        },
    }
    plan["variants"]["one pair"]["Loss.pairs"] = [{"views": ["image1", "text1"]}]
    rows = (run / "test.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "two.tsv").write_text("".join(rows[:2]))
    path.write_text(yaml.safe_dump({**plan, **changes}, sort_keys=False))
    return path


def start(path):
    command = [sys.executable, str(ROOT / "tools" / "study.py"), str(path)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    path, out = study(tmp_path), tmp_path / "a study"
    first, done = start(path), out / "steps" / "one-pair" / "seed-3" / "run.json"
    deadline = time.monotonic() + 120
    while not done.exists():
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = done.stat().st_mtime_ns

    second = start(path)
    said, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert "1 of 2 runs were done before" in said and done.stat().st_mtime_ns == before
    summary = json.loads((out / "study.json").read_text())
    page = (out / "page.html").read_text()
    assert summary.keys() == {"steps", "time"}
    for budget, numbers in summary.items():
        for name, row in numbers.items():
            run = out / budget / name.replace(" ", "-") / "seed-3"
            assert max(metrics(run)) == row["steps"]
            report = json.loads((run / "eval" / "report.json").read_text())["text_to_image"]
            assert report["queries"] == 2  # of the set that is set for it
            assert row["figures"]["R@1"]["values"]["3"] == report["R@1"]
            assert row["figures"]["R@1"]["queries"] == report["interval"]["R@1"]
            assert name in page
    assert "It was judged with DataLoader.Eval.dataset.path = " in page
    steps, of_time = summary["steps"], summary["time"]
    # the slower variant has fewer steps in the time of the first
    assert of_time["one pair"]["steps"] == steps["one pair"]["steps"]
    assert of_time["on from there"]["steps"] == round(
        steps["one pair"]["seconds"]
        / (steps["on from there"]["seconds"] / steps["on from there"]["steps"])
    )
    # it began where the other had ended
    one, other = (
        metrics(out / "steps" / name / "seed-3")[1] for name in ("one-pair", "on-from-there")
    )
    assert (out / "3").is_dir() and other != one

    # all is done: nothing runs; a changed variant is not taken for the one that ran
    third = start(path)
    assert "2 of 2 runs were done before" in third.communicate(timeout=60)[0]
    fourth = start(study(tmp_path, set={"Optimizer.weight_decay": 0.1}))
    errors = fourth.communicate(timeout=60)[1]
    assert fourth.returncode == 2 and "holds a run with other settings" in errors


@pytest.mark.slow
def test_a_run_that_fails_ends_the_study_with_its_last_line(tmp_path):
    variants = {"bad data": {"DataLoader.Train.dataset.path": str(tmp_path / "nothing.tsv")}}
    process = start(study(tmp_path, variants=variants, equal=["steps"]))
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and errors.count("\n") == 1
    assert "train ended with exit code 2: error:" in errors and "nothing.tsv" in errors
