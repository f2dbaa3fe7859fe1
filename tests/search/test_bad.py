"""Pictures that cannot be read: listed, and no reason to stop."""

import contextlib
import json
import os
import shutil
import socket

import pytest
from PIL import Image

from ernie_vil2.search.bad import BadPictures
from tests.support.hostile import pictures as hostile
from tests.support.indexes import Index, anew, counts, write_pictures


def test_bad_pictures_are_listed_once_and_tried_again_when_they_change(index, folder, monkeypatch):
    good, spoiled, *_ = write_pictures(folder, 4)
    (folder / "cut.png").write_bytes(good.read_bytes()[:100])
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<!doctype html>")
    assert counts(index.update(folder)) == {"there": 4, "new": 4, "bad": 3}
    spoiled.write_bytes(b"no picture any more")
    assert counts(index.update(folder)) == {"there": 3, "deleted": 1, "bad": 4}
    lines = [json.loads(line) for line in index.bad.path.read_text().splitlines()]
    assert {line["source"] for line in lines} == {
        str(folder / "cut.png"),
        str(folder / "empty.jpg"),
        str(folder / "page.jpg"),
        str(spoiled),
    }
    assert all(line["reason"] and line["size"] is not None for line in lines)
    with monkeypatch.context() as patch:
        patch.setattr("ernie_vil2.search.load.read", None)
        assert counts(index.update(folder)) == {"there": 3, "bad": 4}
    shutil.copyfile(good, folder / "cut.png")
    (folder / "empty.jpg").unlink()
    assert counts(index.update(folder)) == {"there": 4, "new": 1, "bad": 2}
    assert len(BadPictures(index.bad.path)) == 2


def test_what_a_disk_refuses_is_tried_each_time_and_stays(index, folder, monkeypatch):
    from ernie_vil2.search import load

    path, *_ = write_pictures(folder, 3)
    index.update(folder)
    path.write_bytes(path.read_bytes() + b"\0")
    opened = load.open_regular

    def failing(name):
        if name == str(path):
            raise PermissionError(13, "Permission denied", name)
        return opened(name)

    monkeypatch.setattr(load, "open_regular", failing)
    assert counts(index.update(folder)) == {"there": 3, "bad": 1}
    assert counts(index.update(folder)) == {"there": 3, "bad": 1}
    monkeypatch.undo()
    assert counts(index.update(folder)) == {"there": 3, "changed": 1}


def test_files_that_vanish_or_change_while_they_are_read(index, folder, monkeypatch):
    from ernie_vil2.search import load

    vanishing, changing, growing, *_ = write_pictures(folder, 5)
    opened, fstat = load.open_regular, os.fstat
    seen = []

    def opening(name):
        if name == str(vanishing):
            vanishing.unlink()
        if name == str(changing):  # since the walk: what is read now counts
            changing.write_bytes(changing.read_bytes() + b"\0")
        descriptor = opened(name)
        if name == str(growing):
            seen.append(descriptor)
        return descriptor

    def growing_fstat(descriptor):
        status = fstat(descriptor)
        if descriptor in seen:
            seen.remove(descriptor)
            with open(growing, "ab") as file:
                file.write(b"\0")
        return status

    monkeypatch.setattr(load, "open_regular", opening)
    monkeypatch.setattr("ernie_vil2.search.load.os.fstat", growing_fstat)
    assert counts(index.update(folder)) == {"there": 3, "new": 3, "bad": 1}
    (line,) = (json.loads(x) for x in index.bad.path.read_text().splitlines())
    assert line["reason"] == "it changed while it was read"
    monkeypatch.undo()
    assert counts(index.update(folder)) == {"there": 4, "new": 1}
    assert index.content() == anew(index, folder)


def test_hostile_files_cost_a_line_each(index, folder):
    good = write_pictures(folder, 3)
    shown = {}
    for number, picture in enumerate(hostile.pictures()):
        path = folder / f"{number}\n.png"
        path.write_bytes(picture.data)
        shown[str(path)] = picture.shows
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff\xff" + os.urandom(60_000)
    Image.new("RGB", (20, 20)).save(folder / "exif.jpg", exif=exif)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(folder)
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(good[0].read_bytes())
    with socket.socket(socket.AF_UNIX) as server:
        with contextlib.suppress(OSError):  # its path may be too long
            server.bind(str(folder / "s.png"))
        summary = index.update(folder)
    kept = index.content()
    assert {str(path) for path in good} | {str(folder / "exif.jpg")} <= set(kept)
    for path, shows in shown.items():
        if shows is None:
            assert path not in kept
        elif not isinstance(shows, str) and shows.shape[:2] != (1, 20_000):
            assert path in kept or "pixels" in _reason(index, path), path
    assert summary.bad == len(shown) + len(good) + 2 - len(kept)
    lines = [json.loads(line) for line in index.bad.path.read_text().split("\n") if line]
    assert len(lines) == len({line["source"] for line in lines}) == summary.bad
    assert str(folder / "\udcff.png") in {line["source"] for line in lines}
    assert counts(index.update(folder)) == {"there": len(kept), "bad": summary.bad}


def test_a_time_that_no_store_keeps(index, folder):
    first, last = write_pictures(folder, 2)
    os.utime(first, (0, 10**10))  # the year 2286, whose nanoseconds are too many for 64 bits
    os.utime(last, (0, -(10**9)))
    if first.stat().st_mtime_ns < 2**63:
        pytest.skip("the file system keeps no such time")
    assert counts(index.update(folder)) == {"there": 2, "new": 2}
    assert index.content()[str(last)][0].taken == -(10**9)
    assert index.update(folder).looked_at == 0


def _reason(index: Index, path: str) -> str:
    lines = [json.loads(line) for line in index.bad.path.read_text().split("\n") if line]
    return next((line["reason"] for line in lines if line["source"] == path), "")


def test_a_bad_ledger_that_was_torn_is_read(tmp_path):
    path = tmp_path / "bad.jsonl"
    bad = BadPictures(path)
    bad.add("/a/\udcff.png", "reason", 1, 2)
    bad.add("/b.png", "other", None, None)
    with open(path, "a") as file:
        file.write('{"source": "/c.p')
    again = BadPictures(path)
    assert again.still("/a/\udcff.png", 1, 2) and not again.still("/a/\udcff.png", 1, 3)
    assert len(again) == 2
    again.add("/d.png", "after the torn one", 3, 4)
    assert BadPictures(path).still("/d.png", 3, 4)
