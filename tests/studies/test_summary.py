"""Means and intervals, against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from ernie_vil2.errors import UserError
from ernie_vil2.studies.summary import figure, seed_interval, summarize


def result(recall, low, high, seconds=10.0):
    direction = {"R@10": recall, "interval": {"R@10": [low, high]}}
    report = {"text_to_image": direction, "mean_recall": recall / 2}
    return {"steps": 5, "seconds": seconds, "report": report}


def test_interval_over_seeds_is_scipys():
    values = [0.181, 0.198, 0.219]
    mean, error = np.mean(values), stats.sem(values)
    assert seed_interval(values) == pytest.approx(stats.t.interval(0.95, 2, mean, error))
    assert seed_interval([0.3]) is None
    # it holds what it should: the mean of normal draws in 95 % of 4,000 trials
    draws = np.random.default_rng(0).normal(0.3, 0.1, [4000, 3])
    held = np.mean([low < 0.3 < high for low, high in map(seed_interval, draws.tolist())])
    assert abs(held - 0.95) < 0.012


def test_summary_of_two_variants():
    results = {
        "one": {1: result(0.10, 0.08, 0.13), 2: result(0.14, 0.12, 0.17)},
        "two": {1: result(0.12, 0.10, 0.14, 20.0), 2: result(0.18, 0.15, 0.21, 40.0)},
    }
    figures = {"recall": "text_to_image/R@10", "mean": "mean_recall"}
    table = summarize(results, figures)
    one, two = (table[name]["figures"]["recall"] for name in results)
    assert one["mean"] == pytest.approx(0.12) and one["difference"] is None
    assert one["queries"] == pytest.approx((0.10, 0.15))
    assert two["values"] == {1: 0.12, 2: 0.18} and table["two"]["seconds"] == 30.0
    # seed by seed: +0.02 and +0.04
    assert two["difference"]["mean"] == pytest.approx(0.03)
    assert two["difference"]["interval"] == pytest.approx(
        stats.t.interval(0.95, 1, 0.03, stats.sem([0.02, 0.04]))
    )
    assert table["two"]["figures"]["mean"]["queries"] is None  # reports have none of it


@pytest.mark.parametrize(
    ("key", "said"),
    [("text_to_image/R@11", 'no text_to_image/R@11; did you mean "R@10"'), ("text_to_image", "{")],
)
def test_a_figure_that_reports_lack(key, said):
    with pytest.raises(UserError) as error:
        figure(result(0.1, 0.0, 0.2)["report"], key)
    assert said in str(error.value)
