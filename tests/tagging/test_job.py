"""`prepare-data tag` over whole sets: every kind of tagger, bad rows, kill -9, shards."""

import base64
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from ernie_vil2 import cli
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.tagging.captions import english_phrases
from tests.support import detector as shapes
from tests.support.paths import ROOT
from tests.support.shapes import COLORS, SHAPES, write_set
from tools.prepare_data import main


def write_drawn(path, count):
    """The official TSV of drawn things; returns the names in each picture."""
    rng = np.random.default_rng(7)
    rows, names = [], []
    for number in range(count):
        image, things = shapes.draw(rng, 1 + number % 3)
        data = base64.b64encode(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()).decode()
        rows.append(f"things\tid{number}\t{data}\told|tags\n")
        names.append({shapes.NAMES[name] for name, _ in things})
    path.write_text("".join(rows))
    return names


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tag(out, tsv, *arguments):
    command = ["tag", "--dataset", "name=tsv", f"path={tsv}", "--out", str(out), *arguments]
    assert cli.run(main, command) == 0
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_a_detector_over_a_set_with_bad_rows(detector_folder, tmp_path, capsys):
    tsv = tmp_path / "a.tsv"
    names = write_drawn(tsv, 12)
    with open(tsv, "a") as file:
        file.write("no columns\nbroken\tid\tAAAA\n")
    arguments = ["--from", "detector", detector_folder, "--batch-size", "3"]
    made = tag(tmp_path / "tags", tsv, *arguments, "--processes", "2", "--piece", "4")
    assert "12 of 12 records have tags" in capsys.readouterr().out
    rows = lines(tmp_path / "tags/tags.jsonl")
    assert [row["id"] for row in rows] == [f"id{number}" for number in range(12)]
    assert [set(row["tags"]) for row in rows] == names
    for number, row in enumerate(rows):
        assert len(row["scores"]) == len(row["tags"]) and row["source"] == f"{tsv}:{number + 1}"
        assert row["from"].startswith("detector detector") and "sha256:" in row["from"]
    bad = lines(tmp_path / "tags/bad_records.jsonl")
    assert [(row["record"], row["source"]) for row in bad] == [(12, f"{tsv}:13"), (13, f"{tsv}:14")]
    assert "columns" in bad[0]["reason"] and "not an image" in bad[1]["reason"]
    summary = json.loads(made["tags.json"])
    assert (summary["records"], summary["tagged"], summary["bad"]) == (12, 12, 2)
    assert summary["frequent"] == {
        name: sum(name in of_row for of_row in names) for name in set().union(*names)
    }
    # other processes and again: the same bytes
    assert tag(tmp_path / "alone", tsv, *arguments, "--processes", "0", "--piece", "4") == made
    assert tag(tmp_path / "tags", tsv, *arguments, "--processes", "2", "--piece", "4") == made


def test_from_pictures_to_tagged_shards(detector_folder, tmp_path):
    """Nothing but commands; training reads the tags from the shards."""
    tsv = tmp_path / "a.tsv"
    names = write_drawn(tsv, 6)
    tag(tmp_path / "tags", tsv, "--from", "detector", detector_folder, "--processes", "0")
    source = [f"path={tsv}", f"tags_file={tmp_path / 'tags/tags.jsonl'}"]
    command = ["shard", "--dataset", "name=tsv", *source, "--out", str(tmp_path / "shards")]
    assert cli.run(main, [*command, "--processes", "0"]) == 0
    reader = build_reader("shards", path=str(tmp_path / "shards"))
    assert [set(record.tags) for record in reader] == names


def test_from_captions_and_from_a_model(tiny_artefact, tmp_path):
    tsv = tmp_path / "a.tsv"
    write_set(tsv, copies=1, seed=0)
    tag(tmp_path / "captions", tsv, "--from", "captions", "--processes", "1", "--at-most", "2")
    captions = lines(tmp_path / "captions/tags.jsonl")
    assert {row["from"] for row in captions} == {"captions"}
    for row, record in zip(captions, build_reader("tsv", path=str(tsv))):
        assert row["tags"] == english_phrases(record.captions[0])
    (tmp_path / "words.txt").write_text("\n".join([*COLORS, *SHAPES]))
    words = ["--vocabulary", str(tmp_path / "words.txt"), "--at-most", "3"]
    model = ["--from", "model", str(tiny_artefact), *words]
    tag(tmp_path / "model", tsv, *model, "--processes", "2", "--piece", "8")
    rows = lines(tmp_path / "model/tags.jsonl")
    assert len(rows) == 16 and all(len(row["tags"]) == 3 for row in rows)
    assert {row["from"] for row in rows} == {rows[0]["from"]}
    assert rows[0]["from"].startswith("model exported sha256:")


@pytest.mark.slow
def test_killed_and_begun_again(detector_folder, tmp_path):
    """kill -9 in the middle: it goes on, and the bytes are the same."""
    tsv = tmp_path / "a.tsv"
    write_drawn(tsv, 40)
    arguments = ["--from", "detector", detector_folder, "--piece", "1", "--processes", "2"]
    whole = tag(tmp_path / "whole", tsv, *arguments)
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "tools/prepare_data.py"), "tag", "--out", str(out)]
    command += ["--dataset", "name=tsv", f"path={tsv}", *arguments]

    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    done = 0
    while done < 3 and process.poll() is None and time.monotonic() < end:
        done = len(list(out.glob(".work/*/tagging/[0-9]*")))
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert done >= 3 and not (out / "tags.jsonl").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == whole


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--from", "detektor", "x"], 'did you mean "detector"'),
        (["--from", "detector"], "expected the folder"),
        (["--from", "captions", "x"], "expected no folder"),
        (["--from", "model", "x"], "needs --vocabulary"),
        (["--from", "captions", "--labels", "x"], "--labels says nothing"),
        (["--from", "detector", "x", "--vocabulary", "x"], "--vocabulary says nothing"),
        (["--from", "captions", "--order", "area"], "only a detector"),
        (["--from", "detector", "nowhere"], "holds no exported model"),
    ],
)
def test_what_does_not_belong_together(tmp_path, capsys, arguments, said):
    write_set(tmp_path / "a.tsv", copies=1, seed=0)
    command = ["tag", "--dataset", "name=tsv", f"path={tmp_path / 'a.tsv'}"]
    assert cli.run(main, [*command, "--out", str(tmp_path / "out"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_another_model_is_another_job(tmp_path, capsys, tiny_artefact):
    write_set(tmp_path / "a.tsv", copies=1, seed=0)
    (tmp_path / "words.txt").write_text("red")
    model = ["--from", "model", str(tiny_artefact), "--vocabulary", str(tmp_path / "words.txt")]
    tag(tmp_path / "out", tmp_path / "a.tsv", *model, "--processes", "1")
    (tmp_path / "words.txt").write_text("blue")
    command = ["tag", "--dataset", "name=tsv", f"path={tmp_path / 'a.tsv'}", *model]
    assert cli.run(main, [*command, "--out", str(tmp_path / "out")]) == 2
    assert "holds a job with other contents" in capsys.readouterr().err
