"""An export comes to its place whole or not at all, and nothing else is lost there."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ernie_vil2.errors import UserError
from ernie_vil2.export import place
from ernie_vil2.files import durable
from tests.support.paths import ROOT

# in a process of its own: `fill(folder, text)` and `target`
PRELUDE = (
    "import os, signal, sys, time; from pathlib import Path; from ernie_vil2.export import place; "
    "from tests.export.test_place import fill; target = Path(sys.argv[1])\n"
)


def fill(folder: Path, text: str) -> None:
    """As an export would."""
    (folder / "fp32").mkdir(exist_ok=True)
    for name in ("inference.yml", "vocab.txt", "golden.npz", "fp32/image.pdiparams"):
        (folder / name).write_text(text)


def export(save_dir, text: str) -> None:
    with place.draft(place.find(save_dir)) as folder:
        fill(folder, text)


def content(folder: Path) -> set:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


def start(code: str, target: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PRELUDE + code, str(target)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=["exchange", "two renames"])
def target(request, tmp_path, monkeypatch):
    if request.param == "two renames":  # as on an old kernel or NFS
        monkeypatch.setattr(durable, "exchange_at_once", lambda one, other: False)
    return tmp_path / "model"


def test_new_and_again(target):
    for text in ("first", "second"):
        export(target, text)
        assert content(target) == {text}
        assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o777 & ~place._umask()
    export(target.parent / "new" / "deep", "third")
    assert content(target.parent / "new" / "deep") == {"third"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_is_there_stays_if_the_new_one_fails(target, error):
    export(target, "old")
    with pytest.raises(error), place.draft(place.find(target)) as folder:
        fill(folder, "new")
        raise error
    assert content(target) == {"old"} and list(target.parent.iterdir()) == [target]


def test_two_at_once(target):
    with place.draft(place.find(target)) as one, place.draft(place.find(target)) as other:
        assert one != other
        fill(one, "one")
        fill(other, "other")
    assert content(target) == {"one"}  # which ended last
    assert list(target.parent.iterdir()) == [target]


def test_a_link_stays_one(target):
    place_of_link = target.parent / "elsewhere" / "link"
    place_of_link.parent.mkdir()
    place_of_link.symlink_to(target)  # dangling
    for text in ("first", "second", "third"):
        export(place_of_link, text)
        assert place_of_link.readlink() == target
        assert content(target) == content(place_of_link) == {text}
    assert list(place_of_link.parent.iterdir()) == [place_of_link]


def test_there_is_a_whole_one_at_every_moment(tmp_path):
    target = tmp_path / "model"
    export(target, "0")
    done, missing = threading.Event(), []

    def look():
        while not done.is_set():
            try:
                (target / "inference.yml").read_text()
            except OSError as error:
                missing.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(50):
        export(target, str(number))
    done.set()
    thread.join()
    assert missing == []


def test_a_kill_between_two_renames(tmp_path):
    target = tmp_path / "model"
    export(target, "old")
    code = (
        "place.durable.exchange_at_once = lambda *_: False\n"
        "rename = Path.rename\n"
        "def die(self, to):\n"
        "    rename(self, to)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.rename = die\n"
        "with place.draft(place.find(target)) as folder:\n"
        "    fill(folder, 'new')\n"
    )
    process = start(code, target)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not target.exists() and len(list(tmp_path.iterdir())) == 2
    assert place.find(target) == target
    assert content(target) == {"old"} and list(tmp_path.iterdir()) == [target]


def test_drafts_of_the_dead_are_cleared_and_those_at_work_are_not(tmp_path):
    target = tmp_path / "model"
    for name in (".model.b.abcdefgh.old", ".model.b.abcdefgh.draft", ".model.note"):
        (tmp_path / name).mkdir()  # of `model.b`, and of nobody
    others = set(tmp_path.iterdir())
    code = "with place.draft(target) as folder: print(folder, flush=True); time.sleep(600)"
    process = start(code, target)
    draft = Path(process.stdout.readline().strip())
    place.find(target)
    assert set(tmp_path.iterdir()) == {draft, *others}
    process.kill()
    process.communicate()
    place.find(target)
    assert set(tmp_path.iterdir()) == others


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_places_that_are_no_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export("whole", "ours")
    write(Path(shutil.copytree("whole", "with_notes"), "notes.txt"))
    shutil.copytree("whole", "part")
    Path("part/golden.npz").unlink()
    write(Path("paddlex/inference.yml"))  # another program's
    write(Path("paddlex/inference.pdmodel"))
    write(Path("file"))
    Path("loop").symlink_to("loop")
    os.chdir("whole")
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        (".", r"--save-dir \. is the folder you are in"),
        ("..", r"--save-dir \.\. is the folder you are in, or above"),
        ("/", "--save-dir / is the folder you are in, or above"),
        ("../whole", "is the folder you are in"),
        ("../file", "is a file, no folder"),
        ("../file/", "is a file, no folder"),
        ("../file/model", "file is a file; name a folder elsewhere"),
        ("../file/deep/model", "file is a file; name a folder elsewhere"),
        ("../with_notes", r"holds other files \(notes\.txt\)"),
        ("../paddlex", r"holds other files \(inference\.pdmodel\)"),
        ("../part", r"holds other files \(no whole export\)"),
        ("../loop", "cannot be used"),
        ("a\0b", "cannot be used"),
        ("x" * 300, "cannot be used .*File name too long"),
        ("/proc/none", "cannot be used"),
    ):
        with pytest.raises(UserError, match=message) as error:
            export(name, "new")
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    os.chdir(tmp_path)
    Path("empty").mkdir()
    export("empty", "new")
    assert content(tmp_path / "empty") == {"new"}


def test_what_came_there_meanwhile_is_not_lost(target):
    with pytest.raises(UserError, match="holds other files"), place.draft(target) as folder:
        fill(folder, "new")
        write(target / "thesis.tex")
    assert list(target.parent.rglob("*")) == [target, target / "thesis.tex"]
