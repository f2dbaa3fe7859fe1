"""Shards of a data set: their records, what was left out, and the same bytes whatever happens."""

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ernie_vil2 import cli
from ernie_vil2.data.formats.build import build_reader
from ernie_vil2.data.formats.tsv import TsvReader
from ernie_vil2.data.jobs import job, shard
from ernie_vil2.data.jobs.engine import HERE, Engine
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.data.records import BadRecord
from ernie_vil2.errors import UserError
from tests.support.files import contents
from tests.support.paths import ROOT
from tests.support.pictures import encoded, noise
from tests.support.shapes import write_set
from tools.prepare_data import main

TOOL = ROOT / "tools" / "prepare_data.py"


def row(image: bytes, caption="a text", name="x", tags="") -> str:
    return f"{caption}\t{name}\t{base64.b64encode(image).decode()}{tags and chr(9)}{tags}\n"


@pytest.fixture
def source(tmp_path):
    """64 drawings, some of them again, with another text, damaged, and rows that are none."""
    path = tmp_path / "train.tsv"
    write_set(path, copies=4, seed=0)
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    _, name, image = rows[3].rstrip("\n").split("\t")[:3]
    rows[10:10] = [rows[3], f"另一句\t{name}\t{image}\n", "no record\n", row(b"no image")]
    rows += [rows[7], rows[3], rows[20]]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def read_back(folder):
    """(key, JSON, picture) of each record, by the tarfile module."""
    records = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
            assert all((m.mtime, m.uid, m.gid) == (0, 0, 0) for m in tar.getmembers())
        names = sorted(members)
        assert list(members) == names and len(names) % 2 == 0
        for name in names[::2]:
            key = name.partition(".")[0]
            (picture,) = (n for n in names if n.startswith(key) and not n.endswith(".json"))
            records.append((key, json.loads(members[f"{key}.json"]), picture, members[picture]))
    return records


def brute_force(path, dedup):
    """Records that stay, and number of each other -> what it repeats, None for a bad one."""
    reader, seen, stays, left = TsvReader(str(path)), {}, [], {}
    for number in range(len(reader)):
        try:
            record = reader[number]
        except BadRecord:
            left[number] = None
            continue
        if record.image == b"no image":
            left[number] = None
            continue
        what = (record.image, record.captions if dedup == "pair" else ())
        if dedup != "none" and what in seen:
            left[number] = seen[what]
        else:
            seen[what] = number
            stays.append(record)
    return stays, left


@pytest.mark.parametrize("dedup", ["pair", "image", "none"])
def test_the_shards_hold_the_records_and_the_ledger_the_others(tmp_path, source, dedup, capsys):
    out = tmp_path / "out"
    command = ["shard", "--dataset", "name=tsv", f"path={source}", "--out", str(out)]
    command += ["--dedup", dedup, "--records", "20", "--piece", "9", "--processes", "2"]
    assert cli.run(main, command) == 0
    stays, left = brute_force(source, dedup)
    found = read_back(out)
    assert len(stays) + len(left) == 71 and len(left) > 1
    assert [int(key) for key, *_ in found] == list(range(len(stays)))
    for (_, about, name, picture), record in zip(found, stays):
        assert picture == record.image and name.endswith(".png")
        expected = {"caption": record.captions[0], "tags": list(record.tags)}
        assert about == {**expected, "id": record.id, "source": record.source}
    lines = [json.loads(line) for line in (out / shard.LEDGER).read_text("utf-8").splitlines()]
    reasons = {line["record"]: line["reason"] for line in lines}
    assert list(reasons) == sorted(left)
    assert all(line["source"] == f"{source}:{line['record'] + 1}" for line in lines)
    for number, first in left.items():
        assert first is None or reasons[number] == f"repeats record {first}"
    manifest = json.loads((out / shard.MANIFEST).read_text("utf-8"))
    assert manifest["records"] == len(stays)
    bad = sum(first is None for first in left.values())
    assert manifest["skipped"] == {"bad": bad, "same": len(left) - bad, "near": 0}
    tars = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert [one["name"] for one in manifest["shards"]] == sorted(tars)
    for one in manifest["shards"]:
        content = tars[one["name"]]
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["bytes"] == len(content) and one["records"] <= 20
    assert f"{len(stays)} of 71 records in {len(tars)} shards" in capsys.readouterr().out
    reader = build_reader(name="shards", path=f"{out}/*.tar")
    back = [replace(reader[n], source=record.source, texts={}) for n, record in enumerate(stays)]
    assert back == stays and len(reader) == len(stays)


def test_edges_by_bytes():
    sizes = np.array([100, 100, 100, 5000, 10, 10, 10])
    options = shard.Options(size=2 * (2048 + 100))
    assert shard.shard_edges(sizes, options).tolist() == [0, 2, 3, 4, 6, 7]
    assert shard.shard_edges(sizes[:0], options).tolist() == [0]
    assert shard.shard_edges(sizes, shard.Options(records=3)).tolist() == [0, 3, 6, 7]


def test_large_pictures_are_written_anew_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    wide = Image.new("RGB", (200, 100))
    wide.paste("red", (0, 0, 100, 100))  # on the left: upright, it is on top
    big = encoded(wide, "JPEG", exif=exif, quality=95)
    small, tiff = noise("WEBP", (60, 50)), noise("TIFF", (30, 20))
    path = tmp_path / "a.tsv"
    cut = noise("PNG", (90, 90))[:-500]
    path.write_text("".join(row(x, name=str(n)) for n, x in enumerate([big, small, tiff, cut])))
    options, source = shard.Options(side=64), Source({"name": "tsv", "path": str(path)})
    manifest = shard.write_shards(source, tmp_path / "out", options, Engine(processes=0))
    (one, two, three) = read_back(tmp_path / "out")
    image = Image.open(io.BytesIO(one[3]))
    assert (image.format, image.size) == ("JPEG", (32, 64)) and not image.getexif()
    top, bottom = np.asarray(image)[:28].mean((0, 1)), np.asarray(image)[36:].mean((0, 1))
    assert abs(top - [254, 0, 0]).max() < 8 and bottom.max() < 8
    assert two[2].endswith(".webp") and two[3] == small
    assert three[2].endswith(".png")
    pixels = [np.asarray(Image.open(io.BytesIO(data))) for data in (three[3], tiff)]
    assert (pixels[0] == pixels[1]).all()
    assert manifest["skipped"]["bad"] == 1 and manifest["records"] == 3
    assert "damaged or truncated" in (tmp_path / "out" / shard.LEDGER).read_text()


def test_near_duplicates_go_if_asked(tmp_path):
    wide = Image.effect_noise((64, 48), 90).resize((320, 240), Image.BICUBIC).convert("RGB")
    rows = [row(encoded(wide, "JPEG", quality=quality), name="x") for quality in (95, 40)]
    (tmp_path / "a.tsv").write_text("".join([*rows, row(noise("PNG"))]))
    source = Source({"name": "tsv", "path": str(tmp_path / "a.tsv")})
    for near, kept in ((None, 3), (4, 2)):
        out = tmp_path / f"out{near}"
        manifest = shard.write_shards(source, out, shard.Options(near=near), Engine(processes=0))
        assert manifest["records"] == kept and manifest["skipped"]["near"] == 3 - kept
    assert json.loads((out / shard.LEDGER).read_text())["reason"] == "looks like record 0"


def run(source, out, processes, log):
    reader = "name=tests.support.scripts.deadly_reader.DeadlyReader"
    command = [sys.executable, str(TOOL), "shard", "--dataset", reader, f"path={source}"]
    command += ["--out", str(out), "--processes", str(processes)]
    command += ["--records", "16", "--piece", "8", "--near", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "READ_LOG": str(log)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_the_same_bytes_after_kill_9_and_for_any_number_of_processes(tmp_path, source):
    """Killed, or stopped by Ctrl-C, as it hashes and as it writes, one process and two in turn."""
    log = tmp_path / "log"
    assert run(source, tmp_path / "whole", 1, log)[0] == 0
    expected = contents(tmp_path / "whole", ".work")
    assert len(expected) > 5
    per_run = log.stat().st_size
    log.unlink()
    signals = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT] * 3
    plan = [f"{read} {int(number)}\n" for read, number in zip(range(40, 400, 45), signals)]
    log.with_suffix(".kill").write_text("".join(plan))
    codes, maps = [], set()
    while codes[-1:] != [0] and len(codes) < 9:
        codes.append(run(source, tmp_path / "killed", 1 + len(codes) % 2, log)[0])
        maps |= {place.parent.name for place in (tmp_path / "killed" / ".work").glob("*/*/0*")}
    assert codes == [*[-9, -9, 1, -9, -9, 1][: len(codes) - 1], 0] and len(codes) > 3
    assert maps == {"hash", "decide", "write"}
    assert contents(tmp_path / "killed", ".work") == expected
    # what was done was not done again: but for the pieces at work, and a look at who it is
    assert log.stat().st_size <= per_run + len(codes) * (16 + 2 * 16)


def test_interrupted_between_two_shards_that_take_their_place(tmp_path, source, monkeypatch):
    data, options = Source({"name": "tsv", "path": str(source)}), shard.Options(records=16)
    shard.write_shards(data, tmp_path / "whole", options, Engine(processes=0))
    real, left = os.replace, [2]

    def interrupted(one, other):
        if str(other).endswith(".tar"):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return real(one, other)

    monkeypatch.setattr(shard.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shard.write_shards(data, tmp_path / "out", options, Engine(processes=0))
    monkeypatch.undo()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    shard.write_shards(data, tmp_path / "out", options, Engine(processes=0))
    assert contents(tmp_path / "out", ".work") == contents(tmp_path / "whole", ".work")


def test_killed_while_a_restart_removes_what_was_done(tmp_path, source, monkeypatch):
    """Pieces that have lost some of their files must not count as done."""
    data, options, here = Source({"name": "tsv", "path": str(source)}), shard.Options(), HERE
    shard.write_shards(data, tmp_path / "whole", options, here)
    out = tmp_path / "out"

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shard, "WriteShard", killed)
    with pytest.raises(KeyboardInterrupt):
        shard.write_shards(data, out, options, here)
    monkeypatch.undo()

    def half(folder, **_):
        for path in sorted(folder.rglob("*.npy"))[::2]:
            path.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(job.shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        shard.write_shards(data, out, options, here, restart=True)
    monkeypatch.undo()
    shard.write_shards(data, out, options, here)
    assert contents(out, ".work") == contents(tmp_path / "whole", ".work")
    assert sorted(os.listdir(out / ".work")) == ["job.json", "lock"]


def test_another_job_is_refused_in_one_line(tmp_path, source):
    data, out = Source({"name": "tsv", "path": str(source)}), tmp_path / "out"
    here = Engine(processes=0)
    first = shard.write_shards(data, out, shard.Options(records=30), here)
    before = contents(out)
    assert shard.write_shards(data, out, shard.Options(records=30), here) == first
    assert contents(out) == before
    with pytest.raises(UserError, match="a job with records 30, not 16: --restart does it anew"):
        shard.write_shards(data, out, shard.Options(records=16), here)
    text = source.read_text(encoding="utf-8")
    source.write_text(text + "one more row\n", encoding="utf-8")
    data = Source(data.dataset)  # which had read how long the file is
    with pytest.raises(UserError, match="a job with number of rows 71, not 72: --restart"):
        shard.write_shards(data, out, shard.Options(records=30), here)
    assert contents(out) == before
    shard.write_shards(data, out, shard.Options(records=60), here, restart=True)
    assert len(list(out.glob("*.tar"))) == 2  # of three before
    with pytest.raises(UserError, match="files of another origin"):
        shard.write_shards(data, tmp_path, shard.Options(), here)


def test_texts_by_key_and_several_captions_survive(tmp_path):
    (tmp_path / "a.png").write_bytes(noise("PNG"))
    rows = [{"captions": ["one", "两"], "alt": "a picture", "synthetic": ["x", "y"], "tags": ["t"]}]
    rows += [{"caption": "one", "id": 7, "width": 40}]
    lines = [json.dumps({"image": "a.png", **row}) + "\n" for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    data = {"name": "folder", "root": str(tmp_path), "jsonl": str(tmp_path / "a.jsonl")}
    shard.write_shards(Source(data), tmp_path / "out", shard.Options(), Engine(processes=0))
    reader = build_reader(name="shards", path=f"{tmp_path}/out/*.tar")
    before = build_reader(**data)
    for n in (0, 1):
        assert replace(reader[n], source=before[n].source, texts=before[n].texts) == before[n]
    assert reader[0].texts_of("synthetic") == ("x", "y") and "synthetic" not in reader[1].texts
    assert reader[0].texts_of("alt") == before[0].texts_of("alt") == ("a picture",)


def test_a_set_of_which_nothing_is_left(tmp_path):
    (tmp_path / "a.tsv").write_text("no record\n")
    source = Source({"name": "tsv", "path": str(tmp_path / "a.tsv")})
    manifest = shard.write_shards(source, tmp_path / "out", shard.Options(), Engine(processes=0))
    assert (manifest["records"], manifest["shards"], manifest["skipped"]["bad"]) == (0, [], 1)
