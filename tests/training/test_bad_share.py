"""A training set that cannot be read is not trained on."""

import json

import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.training.bad_share import BadShare
from tests.support.shapes import write_run
from tests.support.training_runs import metrics, train


def spoil(path, rows: range) -> None:
    """Leave these rows of a TSV without their pictures."""
    lines = path.read_text().splitlines()
    for row in rows:
        text, name, _, *rest = lines[row].split("\t")
        lines[row] = "\t".join([text, name, "bm8gcGljdHVyZQ==", *rest])
    path.write_text("\n".join(lines) + "\n")


def error_line(capsys) -> str:
    (message,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    return message


def test_a_set_without_a_good_record_ends_the_run(tmp_path, capsys):
    config = write_run(tmp_path)
    spoil(tmp_path / "train.tsv", range(64))
    out = train(config, "Global.epochs=99", "Global.max_steps=50", code=2)
    message = error_line(capsys)
    for part in ("64 of the last 64 records", "Faults.bad_share is 0.5", "bad_records.jsonl"):
        assert part in message
    assert "train.tsv:" in message and "image" in message  # one of them, with what is wrong
    assert not metrics(out) or max(metrics(out)) <= 4  # an epoch tells


def test_a_run_shorter_than_an_epoch_is_judged_at_its_end(tmp_path, capsys):
    config = write_run(tmp_path)
    spoil(tmp_path / "train.tsv", range(64))
    out = train(config, "Global.max_steps=2", code=2)
    assert "32 of the last 32 records" in error_line(capsys)
    assert not list((out / "checkpoints").glob("step_*"))  # of what has learned nothing


@pytest.mark.parametrize("bound,code", [("0.2", 2), ("0.5", 0), ("null", 0)])
def test_the_bound_is_a_key(tmp_path, bound, code):
    config = write_run(tmp_path)
    spoil(tmp_path / "train.tsv", range(20))
    train(config, f"Faults.bad_share={bound}", code=code)


def test_only_the_last_thousand_records_count(tmp_path):
    judge = BadShare(0.5, 10**6, tmp_path / "bad_records.jsonl")
    for bad in [0] * 50 + [100] * 5:  # 5,000 good ones, then 500 bad ones: half of the last 1,000
        judge.add(bad, 100)
        judge.check()
    judge.add(1, 100)
    with pytest.raises(UserError, match="501 of the last 1,000 records"):
        judge.check()


def test_the_first_few_prove_nothing(tmp_path):
    judge = BadShare(0.5, 10**6, tmp_path / "bad_records.jsonl")
    for _ in range(9):
        judge.add(100, 100)
        judge.check()
    judge.add(100, 100)
    with pytest.raises(UserError, match="1,000 of the last 1,000"):
        judge.check()


def test_reasons_that_differ_in_a_number_or_a_path_count_as_one(tmp_path):
    ledger = tmp_path / "bad_records.jsonl"
    reasons = [f"cannot read image {name}: No such file" for name in ("a.jpg", "b/c", "7")]
    reasons += [f"an image of {size} bytes is cut (by {size})" for size in (3, 17)]
    rows = [{"source": f"a.tsv:{i}", "reason": reason} for i, reason in enumerate(reasons)]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = BadShare(0.5, 5, ledger)
    judge.add(5, 5)
    first = r"3 x cannot read image \.\.\.: No such file \(a.tsv:0\), "
    with pytest.raises(
        UserError, match=first + r"2 x an image of \.\.\. bytes is cut \(by \.\.\.\)"
    ):
        judge.check()


def test_the_summary_counts_reasons(tmp_path):
    ledger = tmp_path / "bad_records.jsonl"
    reasons = ["no file", "too dark", "too dark"] * 3
    rows = [{"source": f"a.tsv:{i}", "reason": reason} for i, reason in enumerate(reasons)]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"sour')
    judge = BadShare(0.5, 9, ledger)
    judge.add(9, 9)
    with pytest.raises(UserError, match=r"6 x too dark \(a.tsv:1\), 3 x no file \(a.tsv:0\)"):
        judge.check()
