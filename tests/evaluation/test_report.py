"""The report as JSON and as a table for the terminal."""

import json

import pytest

from ernie_vil2.evaluation.report import format_table, write_json


def test_json_is_whole_or_absent(tmp_path, report):
    path = tmp_path / "new" / "report.json"
    write_json(path, report)
    assert json.loads(path.read_text("utf-8")) == report
    with pytest.raises(ValueError):
        write_json(path, {"mean_recall": float("nan")})
    assert json.loads(path.read_text("utf-8")) == report
    assert [each.name for each in path.parent.iterdir()] == ["report.json"]


def test_table_for_the_terminal():
    recalls = {"R@1": 0.1234, "R@10": 1.0, "mean_recall": 0.5617, "mrr": 0.25, "median_rank": 2.5}
    interval = {"R@1": [0.1, 0.15], "R@10": [1.0, 1.0], "mean_recall": [0.5, 0.6]}
    chance = {"R@1": 0.0002, "R@10": 0.002, "mean_recall": 0.0011}
    sizes = {"queries": 5000, "candidates": 5000000}
    plain = {**recalls, "interval": {}, "chance": chance, **sizes}
    report = {
        "protocol": "strict",
        "image_to_text": plain,
        "text_to_image": {**plain, "interval": interval},
        "mean_recall": 0.5617,
        "bad_records": 3,
    }
    assert format_table(report).splitlines() == [
        "              Text to image, %                Image to text, %",
        "              recall  95 % interval  chance   recall  95 % interval  chance",
        "R@1             12.3      10.0-15.0    <0.1     12.3                   <0.1",
        "R@10           100.0    100.0-100.0     0.2    100.0                    0.2",
        "mean recall     56.2      50.0-60.0     0.1     56.2                    0.1",
        "MRR            0.250                           0.250",
        "median rank      2.5                             2.5",
        "queries         5000                            5000",
        "candidates    5000000                         5000000",
        "mean recall of both directions: 56.2 %",
        "protocol: strict",
        "bad records left out: 3",
    ]
