"""Which files of a folder seem to be pictures, and what is never opened."""

import os
import socket
import threading

import pytest

from ernie_vil2.search import walk as walking
from ernie_vil2.search.patterns import Patterns
from ernie_vil2.search.walk import File, Foreign, Unread, open_regular, walk

PNG = b"\x89PNG\r\n\x1a\n and more"


def found(folder, *globs, links=False):
    """Paths from the folder on, and what else was met."""
    files, others = [], []
    for item in walk(str(folder), Patterns(globs), links):
        if isinstance(item, File):
            files.append(os.path.relpath(item.path, folder))
        else:
            others.append(item)
    return files, others


def put(folder, *names, data=PNG):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_pictures_in_order_of_their_names_folder_by_folder(tmp_path):
    put(tmp_path, "b.JPG", "a.png", "c.txt", "z/1.webp", "m/2.tiff", "m/deep/3.gif", "猫.bmp")
    files, others = found(tmp_path)
    assert files == ["a.png", "b.JPG", "猫.bmp", "m/2.tiff", "m/deep/3.gif", "z/1.webp"]
    assert others == []
    (first, *_) = walk(str(tmp_path), Patterns())
    status = os.stat(tmp_path / "a.png")
    assert first == (str(tmp_path / "a.png"), status.st_size, status.st_mtime_ns)


def test_a_name_without_an_end_is_looked_into(tmp_path):
    put(tmp_path, "picture")
    put(tmp_path, "note", "empty", data=b"")
    put(tmp_path, "README", data=b"text")
    assert found(tmp_path)[0] == ["picture"]


def test_what_is_hidden_or_made_by_programs_is_passed_over(tmp_path):
    put(tmp_path, ".hidden.png", "._a.png", ".thumbnails/a.png", "@eaDir/a.png", "__MACOSX/a.png")
    put(tmp_path, ".git/a.png", "sub/#recycle/a.png", "$RECYCLE.BIN/a.png", "Thumbs.db", "a.png")
    assert found(tmp_path) == (["a.png"], [])
    put(tmp_path, ".hidden/b.png")
    assert found(tmp_path / ".hidden")[0] == ["b.png"]  # who names it means it


def test_patterns_are_on_paths_from_the_folder_on(tmp_path):
    put(tmp_path, "raw/a.png", "2019/raw/a.png", "2020/raw/a.png", "b.gif", "raw.png")
    assert found(tmp_path, "2019/raw", "*.gif", "/raw/")[0] == ["raw.png", "2020/raw/a.png"]


def test_formats_that_are_not_read_are_named(tmp_path):
    put(tmp_path, "a.HEIC", "b.heic", "c.cr2", "d.mp4", "e.png")
    files, others = found(tmp_path)
    assert files == ["e.png"]
    assert others == [Foreign(".heic"), Foreign(".heic"), Foreign(".cr2")]


def test_links(tmp_path):
    put(tmp_path, "folder/a.png", "elsewhere/b.png", "elsewhere/c.png")
    folder = tmp_path / "folder"
    (folder / "file.png").symlink_to(tmp_path / "elsewhere/b.png")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    (folder / "up").symlink_to("..")
    files, _ = found(folder)
    assert files == ["a.png", "file.png"]
    files, _ = found(folder, links=True)
    assert files == ["a.png", "file.png", "more/b.png", "more/c.png"]


def test_pipes_sockets_and_devices_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "tty").symlink_to("/dev/tty")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        put(tmp_path, "a.png")
        assert found(tmp_path) == (["a.png"], [])
    with pytest.raises(OSError, match="no regular file"):
        open_regular(str(tmp_path / "pipe.png"))
    with pytest.raises(OSError, match="no regular file"):
        open_regular("/dev/zero")


def test_names_that_are_no_utf8(tmp_path):
    base = os.fsencode(tmp_path)
    with open(base + b"/\xff.png", "wb") as file:
        file.write(PNG)
    os.mkdir(base + b"/\xfe")
    with open(base + b"/\xfe/a.png", "wb") as file:
        file.write(PNG)
    put(tmp_path, "new\nline.png")
    files, others = found(tmp_path)
    assert files == ["new\nline.png"]
    assert {(os.fsencode(x.path)[len(base) :], x.is_folder) for x in others} == {
        (b"/\xff.png", False),
        (b"/\xfe", True),
    }
    assert all("no UTF-8" in x.reason for x in others)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    listed = walking._listed

    def failing(folder):
        if folder.endswith("/b"):
            raise OSError(5, "Input/output error", folder)
        if folder.endswith("/c"):
            raise FileNotFoundError(folder)  # deleted a moment ago
        return listed(folder)

    monkeypatch.setattr(walking, "_listed", failing)
    files, others = found(tmp_path)
    assert files == ["a/1.png"]
    assert others == [Unread(str(tmp_path / "b"), "Input/output error", True)]
    with pytest.raises(OSError, match="Input"):
        found(tmp_path / "b")


def test_a_tree_that_changes_while_it_is_walked(tmp_path):
    put(tmp_path, *(f"{n}/{m}.png" for n in range(20) for m in range(10)))
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for n in range(20):
                if (tmp_path / f"{n}").exists():
                    os.rename(tmp_path / f"{n}", tmp_path / f"x{n}")
                else:
                    os.rename(tmp_path / f"x{n}", tmp_path / f"{n}")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            files, others = found(tmp_path)
            assert len(files) <= 400 and others == []
    finally:
        stop.set()
        thread.join()
    assert len(found(tmp_path)[0]) == 200
