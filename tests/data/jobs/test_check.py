"""What is bad is listed, and shown again."""

import base64
import json

import pytest

from ernie_vil2 import cli
from ernie_vil2.data.jobs import check
from ernie_vil2.data.ledger import Ledger
from ernie_vil2.data.records import BadRecord
from tests.support.files import contents
from tests.support.pictures import noise
from tests.support.shapes import write_run
from tools.prepare_data import main


def row(image: bytes) -> str:
    return f"a text\tname\t{base64.b64encode(image).decode()}\n"


GOOD, CUT = noise("PNG"), noise("JPEG")[:-300]
BAD = {3: row(CUT), 7: "one column\n", 8: "\n", 15: row(b"no image")}


@pytest.fixture
def source(tmp_path):
    lines = [BAD.get(number, row(GOOD)) for number in range(20)]
    (tmp_path / "a.tsv").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "a.tsv"


def run(*command) -> int:
    return cli.run(main, [str(part) for part in command])


def dataset(source):
    return ["--dataset", "name=tsv", f"path={source}"]


@pytest.mark.parametrize("processes", [0, 2])
def test_check_lists_what_is_bad(tmp_path, source, processes, capsys):
    out = tmp_path / "out"
    command = ["check", *dataset(source), "--out", out, "--processes", processes, "--piece", 6]
    assert run(*command) == 1
    lines = [json.loads(line) for line in (out / check.LEDGER).read_text("utf-8").splitlines()]
    assert [line["record"] for line in lines] == list(BAD)
    assert [line["source"] for line in lines] == [f"{source}:{number + 1}" for number in BAD]
    told = ["damaged or truncated", "1 columns", "blank line", "not an image"]
    assert all(text in line["reason"] for text, line in zip(told, lines))
    assert "4 of 20 records are bad: see " in capsys.readouterr().out
    before = contents(out)
    assert run(*command) == 1 and contents(out) == before  # a second time says the same


def test_a_good_set_has_exit_code_0(tmp_path):
    config = write_run(tmp_path)
    for further in ([], ["--eval"]):
        command = ["check", "-c", config, "--out", tmp_path / f"out{len(further)}", *further]
        assert run(*command, "--processes", 0) == 0


def test_replay_says_what_is_wrong_now_and_saves_the_bytes(tmp_path, source, capsys):
    """The ledger is one of a training run, which has no numbers of records."""
    ledger = Ledger(tmp_path / "bad_records.jsonl")
    for number in BAD:
        ledger.add(BadRecord(f"{source}:{number + 1}", "as it was"))
    ledger.add(BadRecord("elsewhere.tsv:3", "as it was"))
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[7] = row(GOOD)  # mended since
    source.write_text("".join(lines), encoding="utf-8")
    save = tmp_path / "save"
    assert run("replay", ledger.path, *dataset(source), "--save", save) == 1
    said = capsys.readouterr().out.splitlines()
    assert f"{source}:4: still bad: image: damaged or truncated" in said[0]
    assert f"{source}:8: readable now; it was: as it was (record 7, PNG of 40 x 30" in said[1]
    assert f"{source}:9: still bad: blank line" in said[2]
    assert "elsewhere.tsv:3: still bad: it is not in this data set" in said[4]
    assert said[5] == "4 of 5 are still bad"
    saved = {path.name: path.read_bytes() for path in save.iterdir()}
    assert saved == {
        "000000-a.tsv_4.jpeg": CUT,
        "000001-a.tsv_8.png": GOOD,
        "000003-a.tsv_16.bin": b"no image",
    }


def test_replay_finds_what_no_row_tells(tmp_path, capsys):
    """Two files: the row within one is not the record's number, so that all is searched."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.tsv").write_text(row(GOOD) * 5 + "bad\n" + row(GOOD), "utf-8")
    (tmp_path / "ledger.jsonl").write_text(
        json.dumps({"source": f"{tmp_path}/b.tsv:6", "reason": "x"}) + '\n{"sour', "utf-8"
    )
    command = ["replay", tmp_path / "ledger.jsonl", *dataset(tmp_path / "*.tsv")]
    assert run(*command) == 1
    assert f"{tmp_path}/b.tsv:6: still bad: 1 columns" in capsys.readouterr().out
    (tmp_path / "ledger.jsonl").write_text("no ledger\n")
    assert run(*command) == 2


def test_wrong_sources_are_one_line(tmp_path, source, capsys):
    out = ["--out", tmp_path / "out"]
    for command, told in [
        (["--dataset", "path=x", *out], "--dataset has no name=FORMAT"),
        (["--dataset", "tsv", *out], "--dataset tsv: expected KEY=VALUE"),
        (["--dataset", "name=tsv", "pth=x", *out], 'no option "pth"'),
        ([*dataset(source), "-o", "Global.seed=1", *out], "-o changes a configuration"),
        (["-c", tmp_path / "no.yaml", *out], "no.yaml: No such file"),
        (
            ["-c", write_run(tmp_path), "-o", "DataLoader.Eval=null", "--eval", *out],
            "no DataLoader",
        ),
    ]:
        assert run("check", *command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
