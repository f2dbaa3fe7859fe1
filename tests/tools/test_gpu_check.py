"""tools/gpu_check.sh: its table, its exit codes, what hangs or dies, and all of it on the CPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_vil2 import cli
from tests.support.paths import ROOT
from tests.support.processes import alive
from tests.support.told import error_line
from tools.gpu_check import __main__ as command
from tools.gpu_check import cards, rows
from tools.gpu_check.parts import PARTS, Part, run
from tools.gpu_check.rows import Row, Setting, at_least, at_most, exit_code, not_run

BROKEN = Part("broken_checks", 6, package="tests.support.scripts")
# What the rehearsal may leave out, each for a reason that is one of these.
ONLY_ON_GPUS = {
    "environment: driver",
    "environment: capability",
    "environment: CUDA libraries",
    "environment: NVLink",
    "kernels: fused layers against float64",
    "precision: O1 float16: a first step",
    "precision: O2 float16: a first step",
    "precision: O1 float16: loss after 20 steps",
    "precision: O2 float16: loss after 20 steps",
    "inference: fp32, TensorFloat-32 on",
    "inference: fp16",
    "inference: TensorRT",
    *(f"figures: {level}: share of the card's peak, from memory" for level in ("O0", "O1", "O2")),
}


@pytest.mark.parametrize(
    "found,code",
    [
        ([at_most("a", 1.0, 2.0), not_run("b", "needs a GPU")], 0),
        ([at_most("a", 1.0, 2.0), at_most("b", 3.0, 2.0)], 1),
        ([at_most("a", float("nan"), 2.0)], 1),
        ([at_least("a", float("nan"), 2.0)], 1),
        ([at_least("a", float("inf"), 2.0), rows.figure("b", 1.0)], 0),
        ([not_run("a", "needs a GPU")], 1),  # nothing passed
        ([], 1),
    ],
)
def test_exit_code(found, code):
    assert exit_code(found) == code


def test_a_row_says_what_it_is():
    assert rows.line(at_most("a check", 2e-6, 1e-5, "a note")).split() == [
        *("a", "check", "2.0e-06", "<=", "1e-05", "pass", "0.0", "a", "note")
    ]
    assert "FAIL" in rows.line(at_most("a check", 1.0, 0.5))
    assert "not run" in rows.line(not_run("a check", "needs a GPU"))
    left_out = [
        not_run("a", "needs a GPU"),
        not_run("b", "needs a GPU: why"),
        Row("c", 1, "", True),
    ]
    assert rows.summary(left_out) == "1 passed or told, 0 FAILED, 2 not run; 2 needs a GPU"


def broken(tmp_path: Path, how: str) -> list[Row]:
    return list(run(BROKEN, Setting((), 2, str(tmp_path / how)), dict(os.environ)))


def test_a_check_that_raises_is_a_row_and_the_next_goes_on(tmp_path):
    good, bad, after = broken(tmp_path, "raises")
    assert (good.passed, bad.passed, after.passed) == (True, False, True)
    assert (bad.check, bad.note) == ("broken", "ValueError: the last line tells")


def test_what_cannot_run_fails_nothing(tmp_path):
    found = broken(tmp_path, "cannot")
    assert [row.passed for row in found] == [True, None, True]
    assert exit_code(found) == 0


def test_a_part_that_dies_keeps_its_rows_and_fails(tmp_path):
    good, bad = broken(tmp_path, "dies")
    assert good.passed and not bad.passed
    assert "signal SIGSEGV" in bad.note


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    good, bad = broken(tmp_path, "hangs")
    assert good.passed and not bad.passed
    assert "no end after 6 s" in bad.note
    assert not alive((tmp_path / "hangs" / "pid").read_text())


def test_one_failing_row_is_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "PARTS", [BROKEN])
    output = tmp_path / "found.json"
    assert cli.run(command.main, ["--rehearse", "--json", str(output)]) == 1
    assert "1 FAILED" in capsys.readouterr().out
    found = json.loads(output.read_text())
    assert (found["exit_code"], found["rehearsal"]) == (1, True)
    verdicts = {row["check"]: row["passed"] for row in found["rows"]}
    assert verdicts == {
        "broken_checks: a number": True,
        "broken_checks: another number": False,
        "broken_checks: the next check": True,
    }


def test_without_a_gpu_one_line_and_exit_code_2(capsys):
    assert cli.run(command.main, []) == 2
    assert "--rehearse runs the checks on the CPU" in error_line(capsys.readouterr().err)


def test_no_environment_is_made_without_a_gpu(tmp_path):
    """The script itself: nvidia-smi fails, and there is no Python to be found."""
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [shutil.which("bash"), str(ROOT / "tools" / "gpu_check.sh")],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no GPU" in error_line(done.stderr)


def test_more_gpus_than_there_are_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(command.cards, "visible", lambda environment: ("4", "5"))
    assert cli.run(command.main, ["--gpus", "3"]) == 2
    assert "--gpus 3: Paddle sees 2" in error_line(capsys.readouterr().err)


def test_labels_are_those_that_the_launcher_knows():
    assert cards.labels(None, 2) == ("0", "1")
    assert cards.labels("4,6,7", 2) == ("4", "6")
    assert cards.labels("-1,-1", 0) == ()


@pytest.mark.parametrize(
    "name,peak",
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("Tesla V100-SXM2-32GB", 125.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA TITAN of next year", None),
    ],
)
def test_the_card_is_known_by_its_name(name, peak):
    assert cards.peak(name) == (peak and peak * 1e12)


def test_the_parts_end_within_a_quarter_of_an_hour():
    assert sum(part.seconds for part in PARTS) < 15 * 60


def test_operations_of_a_base_pair(monkeypatch):
    """timm counts 17.58e9 multiplications with their additions in a ViT-B/16's forward."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from ernie_vil2.config.load import load_config
    from ernie_vil2.doctor.costs import Costs
    from tools.gpu_check import figures

    costs = Costs.of(load_config(ROOT / "configs" / "base.yaml"))
    image, _ = costs.towers
    stem = 2 * 196 * 768 * 768  # patches to tokens
    assert figures._forward(image) / image.views + stem == pytest.approx(2 * 17.58e9, rel=0.01)
    assert figures.operations(costs) == pytest.approx(260e9, rel=0.01)


@pytest.fixture
def environment(tmp_path):
    """An environment that the set-up takes for its own, whose Python is the tests'."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    mark = (
        'source tools/_setup.sh; venv=$1; fingerprint "$2" > "$1/$2.installed"; touch "$1/checked"'
    )
    names = ["bash", str(folder), "requirements.txt"]
    subprocess.run(["bash", "-c", mark, *names], cwd=ROOT, check=True)
    return {"ERNIE_VIL2_VENV": str(folder), "ERNIE_VIL2_REQUIREMENTS": "requirements.txt"}


@pytest.mark.slow
def test_the_rehearsal_passes_and_leaves_out_only_what_needs_a_gpu(tmp_path, environment):
    output = tmp_path / "gpu_check.json"
    done = subprocess.run(
        ["bash", "tools/gpu_check.sh", "--rehearse", "--json", str(output)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["rows"]
    assert {row["part"] for row in found if row["passed"]} == {part.name for part in PARTS}
    left_out = {row["check"]: row["note"] for row in found if row["passed"] is None}
    assert {c for c, why in left_out.items() if why.startswith(rows.NEEDS_GPU)} <= ONLY_ON_GPUS
    for why in left_out.values():
        assert why.startswith((rows.NEEDS_GPU, "not on a CPU", "this CPU has no"))
