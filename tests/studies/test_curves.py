"""Curves read from runs, and drawn."""

import json
import xml.etree.ElementTree as ElementTree

import cv2
import pytest

from ernie_vil2 import cli
from ernie_vil2.errors import UserError
from ernie_vil2.studies import plots
from ernie_vil2.studies.curves import read_curves
from tools.plot import main as plot


def log(folder, rows):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def steps(seconds, pause=0.0):
    """Ten lines of 10 steps of 64 pairs each, with an evaluation after the fifth."""
    now, rows = 1000.0, []
    for line in range(1, 11):
        now += seconds
        rate = 640 / seconds
        rows.append(
            {"step": 10 * line, "time": now, "train/loss": 9 / line, "train/pairs_per_second": rate}
        )
        if line == 5:
            now += pause
            rows.append({"step": 50, "time": now, "eval/mean_recall": 0.25})
    return rows


def test_time_of_steps_leaves_evaluations_out(tmp_path):
    curves = read_curves(log(tmp_path / "run", steps(2.0, pause=33.0)))
    assert curves.seconds[100] == pytest.approx(20.0)
    assert curves.line("eval/mean_recall") == ([50], [pytest.approx(10.0)], [0.25])
    assert curves.line("train/loss")[0] == list(range(10, 101, 10))


def test_a_step_that_was_taken_again_counts_once(tmp_path):
    rows = steps(2.0)
    again = [{**row, "time": row["time"] + 50, "train/loss": 1.0} for row in rows[3:]]
    curves = read_curves(log(tmp_path / "run", rows[:6] + again))
    assert curves.line("train/loss")[2][2:] == [3.0] + [1.0] * 7
    assert curves.seconds[100] == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize("content", ["", "no JSON\n", "[]\n", '{"loss": 1}\n'])
def test_what_is_no_log_is_one_line(tmp_path, content):
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        read_curves(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl is"):
        read_curves(tmp_path)


def test_names_from_files_stay_text(tmp_path):
    curves = read_curves(log(tmp_path / "run", steps(1.0)))
    hostile = "<script>alert(1)</script> & 一对"
    element = plots.svg(plots.line_plot({hostile: [curves, curves]}, "train/loss", "seconds"))
    texts = [x.text for x in ElementTree.fromstring(element).iter() if x.tag.endswith("text")]
    assert hostile in texts and "<script>alert" not in element


def test_plots_of_runs(tmp_path, capsys):
    runs = [str(log(tmp_path / name, steps(time))) for name, time in (("a", 1.0), ("b", 3.0))]
    out = tmp_path / "curves"
    assert cli.run(plot, [*runs, "--out", str(out)]) == 0
    page = (out / "curves.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and all(run in page for run in runs)
    for name in ("train_loss", "eval_mean_recall"):
        picture = cv2.imread(str(out / f"{name}.png"))
        assert picture.shape[1] > 900 and picture.std() > 5
    capsys.readouterr()
    assert cli.run(plot, [*runs, "--names", "train/lost", "--out", str(out)]) == 2
    assert "no run has train/lost: expected some of eval/mean_recall" in capsys.readouterr().err
