"""Which steps are judged harmful."""

import json
import math

import pytest

from ernie_vil2.training.faults import Faults


def faults(tmp_path, spike=2.0, skips=3):
    return Faults(tmp_path / "faults.jsonl", spike, skips)


@pytest.mark.parametrize("loss,norm", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_not_finite_is_a_fault_at_once(tmp_path, loss, norm):
    judge = faults(tmp_path)
    assert "nan" in judge.judge(loss, norm) or "inf" in judge.judge(loss, norm)
    assert not judge.losses


def test_a_spike_is_measured_by_the_median_of_good_losses(tmp_path):
    judge = faults(tmp_path)
    assert judge.judge(1000.0, 1.0) is None  # no measure yet
    for _ in range(30):
        assert judge.judge(2.0, 1.0) is None
    assert "2.5 times" in judge.judge(5.0, 1.0)
    assert judge.judge(3.9, 1.0) is None
    assert faults(tmp_path, spike=None).judge(1e30, 1.0) is None


def test_faults_in_a_row_are_hopeless_and_a_good_step_ends_the_row(tmp_path):
    judge = faults(tmp_path)
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan):
        judge.judge(loss, 1.0)
        assert not judge.hopeless
    judge.judge(math.nan, 1.0)
    assert judge.hopeless and judge.total == 5
    judge.rolled_back()
    assert not judge.hopeless and judge.rollbacks == 1


def test_a_resumed_run_judges_alike(tmp_path):
    judge, other = faults(tmp_path), faults(tmp_path)
    for i in range(150):
        judge.judge(1 / (i + 3), 1.0)
    judge.judge(math.nan, 1.0)
    other.load_state_dict(json.loads(json.dumps(judge.state_dict())))
    assert other.state_dict() == judge.state_dict()
    assert other.losses == judge.losses and len(other.losses) == 100
    assert other.judge(0.02, 1.0) == judge.judge(0.02, 1.0) != None  # noqa: E711


def test_the_file_has_a_line_a_fault(tmp_path):
    judge = faults(tmp_path)
    judge.write(step=3, records=[{"id": "图"}])
    judge.write(step=4, records=[])
    lines = [json.loads(x) for x in judge.path.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [3, 4] and lines[0]["records"][0]["id"] == "图"
