"""`tools/index.py`: what it says, remembers and refuses; as a process, watching and interrupted."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from ernie_vil2 import cli
from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.commands import index as command
from ernie_vil2.search.lance import LanceCollection
from ernie_vil2.search.open import open_collection
from tests.support.indexes import content, write_pictures
from tests.support.paths import ROOT


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def index(tmp_path, tiny_artefact, capsys):
    """Calls the command; gives its exit code and the lines on stdout, on stderr without a bar's."""

    def run(*argv, exported=tiny_artefact):
        code = cli.run(command.main, [str(exported), "--db", str(tmp_path / "db"), *map(str, argv)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), [line for line in err.splitlines() if "\r" not in line]

    return run


@pytest.fixture
def other_model(tiny_artefact, tmp_path):
    """The same programs, said to be of other weights."""
    shutil.copytree(tiny_artefact, tmp_path / "other")
    artefact = Artefact.open(tmp_path / "other")
    dataclasses.replace(artefact, weights={"source": "other", "sha256": "0" * 64}).save()
    return tmp_path / "other"


def everything(folder):
    """All that a folder has, with sizes and times."""
    paths = [folder, *folder.rglob("*")]
    return {(str(x), x.stat().st_size, x.stat().st_mtime_ns) for x in paths}


def test_again_and_without_a_folder(index, folder, tmp_path, monkeypatch):
    paths = write_pictures(folder, 9)
    (folder / "note.gif").write_bytes(b"no picture")
    (folder / "phone.HEIC").write_bytes(b"...")
    tags = tmp_path / "tags.jsonl"
    tags.write_text(json.dumps({"id": paths[0].name, "tags": ["猫"]}))
    before = everything(folder)
    monkeypatch.setattr(socket.socket, "connect", None)  # calling it fails
    code, out, _ = index(folder, "--exclude", "海边", "--tags-file", tags)
    assert code == 0
    assert out[0].startswith("6 pictures: 6 new, 0 changed, 0 moved, 0 deleted, 1 bad; ")
    assert out[1:] == [
        f"what cannot be read, and why: {tmp_path / 'db' / 'bad.jsonl'}",
        "in formats that are not read: .heic 1",
    ]
    (paths[3].with_name("new.png")).write_bytes(paths[3].read_bytes() + b"\0")
    before = everything(folder)
    code, out, _ = index()  # it remembers the folder, what to leave out, and the tags
    assert (code, out[0][:53]) == (0, "7 pictures: 1 new, 0 changed, 0 moved, 0 deleted, 1 b")
    assert everything(folder) == before
    kept = content(tmp_path / "db")
    assert kept[str(paths[0])][0].tags == ("猫",)
    with contextlib.closing(open_collection(str(tmp_path / "db"))) as collection:
        assert {"model", "folders", "exported"} <= set(collection.notes)
        assert "indexing" not in collection.notes
        assert os.path.isdir(collection.notes["exported"])


def test_where_the_bad_ones_are_listed(index, folder, tmp_path):
    (folder / "a.png").write_bytes(b"no picture")
    code, out, _ = index(folder, "--bad", tmp_path / "list.jsonl")
    assert code == 0 and out[1].endswith(str(tmp_path / "list.jsonl"))
    (line,) = (tmp_path / "list.jsonl").read_text().splitlines()
    assert json.loads(line)["source"] == str(folder / "a.png")


def test_another_model_needs_a_rebuild(index, folder, tmp_path, other_model, monkeypatch):
    write_pictures(folder, 4)
    more = tmp_path / "more"
    write_pictures(more, 2, seed=1)
    index(folder, more)
    before = content(tmp_path / "db")
    code, _, err = index(folder, exported=other_model)
    assert code == 2
    assert len(err) == 1 and "another model" in err[0] and "--rebuild" in err[0]

    searched, add = [], LanceCollection.add

    def adding(self, *args):
        add(self, *args)
        with contextlib.closing(open_collection(str(tmp_path / "db"))) as collection:
            searched.append(collection.count())

    monkeypatch.setattr(LanceCollection, "add", adding)
    code, out, _ = index("--rebuild", exported=other_model)
    assert (code, out[0][:23]) == (0, "6 pictures: 6 new, 0 ch")
    assert searched == [6]  # the old one, while the new one is made
    assert content(tmp_path / "db") == before  # its programs are the same
    assert not (tmp_path / ".db.rebuild").exists()
    assert index(exported=other_model)[0] == 0
    assert index()[0] == 2


def test_a_damaged_collection_is_made_anew(index, folder, tmp_path):
    write_pictures(folder, 3)
    index(folder)
    (tmp_path / "db/collection.json").write_text("{}")
    code, _, err = index(folder)
    assert code == 2 and "--rebuild" in err[0]
    code, out, _ = index(folder, "--rebuild")
    assert code == 0 and out[0].startswith("3 pictures: 3 new")
    assert len(content(tmp_path / "db")) == 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "there is no such collection yet: name a FOLDER"),
        (["typo"], "typo is no folder: name one that holds pictures"),
        (["folder", "--exclude", "!a"], "--exclude !a: a pattern that takes back"),
        (["--exclude", "a"], "are of the folders that are named with them: name a FOLDER"),
        (["folder", "--rebuild", "--watch"], "run it first, and --watch after it"),
        (["folder", "--precision", "int8"], "has no precision int8"),
        (["folder", "--tags-file", "none.jsonl"], "none.jsonl cannot be read: No such file"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing(index, folder, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = index(*argv)
    assert code == 2
    assert len(err) == 1 and said in err[0]
    assert not (tmp_path / "db/bad.jsonl").exists()


def test_no_rebuild_on_a_server(tiny_artefact, folder, capsys):
    argv = [str(tiny_artefact), str(folder), "--db", "http://127.0.0.1:1/x", "--rebuild"]
    assert cli.run(command.main, argv) == 2
    assert "lies on a server" in capsys.readouterr().err


# -- As a process ----------------------------------------------------------------------------------


def start(*argv):
    line = [sys.executable, str(ROOT / "tools/index.py"), *map(str, argv)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(holds, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # there is no collection yet
            if holds():
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("it does not come")


def test_watching_until_sigterm(tiny_artefact, folder, tmp_path):
    (first, *_) = write_pictures(folder, 3)
    db = tmp_path / "db"
    process = start(tiny_artefact, folder, "--db", db, "--watch", "--interval", 1)
    try:
        wait_for(lambda: len(content(db)) == 3, process)
        write_pictures(folder, 2, seed=1)
        first.unlink()
        wait_for(lambda: len(content(db)) == 4, process)
        os.rename(folder, tmp_path / "aside")  # as a disk that goes
        time.sleep(1.5)
        os.rename(tmp_path / "aside", folder)
        write_pictures(folder, 1, seed=2)
        wait_for(lambda: len(content(db)) == 5, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("3 pictures: 3 new") and lines[-1] == "stopped"
    assert "waiting: " in err and "mounted?" in err
    assert any("2 new, 0 changed, 0 moved, 1 deleted" in line for line in lines)


def test_ctrl_c_ends_at_once_and_keeps_what_is_done(tiny_artefact, folder, tmp_path):
    paths = write_pictures(folder, 30)
    for number in range(4000):  # other bytes each, so that each is embedded
        with open(folder / f"more{number:05d}.png", "wb") as file:
            file.write(paths[number % 30].read_bytes() + number.to_bytes(4, "big"))
    db = tmp_path / "db"
    process = start(tiny_artefact, folder, "--db", db)
    try:
        wait_for(lambda: len(content(db)) > 0, process)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        took = time.monotonic() - sent
    finally:
        process.kill()
    assert process.returncode == 1, err
    assert err.splitlines()[-1].endswith("interrupted")
    assert took < 10, took  # a second or two on cores of its own
    done = len(content(db))
    assert 0 < done < 4030
    with contextlib.closing(open_collection(str(db))) as collection:
        assert "indexing" not in collection.notes


def test_what_relevance_needs_is_measured_for_the_first_search(index, folder, tmp_path):
    write_pictures(folder, 25)  # fewer than 20 have no relevance
    assert index(folder)[0] == 0
    with contextlib.closing(open_collection(str(tmp_path / "db"))) as collection:
        assert collection.notes["background"]
