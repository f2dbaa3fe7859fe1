"""What the operating system refuses is one line with the path and the remedy."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.files.durable import naming, replace_text
from ernie_vil2.os_errors import explain
from tests.support.faulty_runs import may_mount, on_small_disk
from tests.support.paths import ROOT
from tests.support.shapes import write_run
from tests.support.told import error_line
from tools import train as train_tool


def error(number: int, *names) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    "number,names,expected",
    [
        (errno.ENOSPC, ["a"], ("a: No space left on device; free space there", 2)),
        (errno.ENOSPC, [], ("what was to be written: No space left on device; free", 2)),
        (errno.EROFS, [Path("a/b")], ("a/b: Read-only file system; ", 2)),
        (errno.EEXIST, [b"a"], ("a: File exists; ", 2)),
        (errno.EXDEV, ["a", None, "b"], ("b: Invalid cross-device link; ", 1)),
        (errno.EIO, ["a\nb"], ("a b: Input/output error; check the disk", 1)),
        (errno.EMFILE, [], ("what was to be written: Too many open files; ", 2)),
    ],
)
def test_one_line_and_an_exit_code(number, names, expected):
    line, code = explain(error(number, *names))
    assert line.startswith(expected[0]) and "\n" not in line and code == expected[1]


@pytest.mark.parametrize(
    "other",
    [
        OSError("of a library"),
        error(errno.EADDRINUSE),
        ConnectionResetError(104, "reset"),
        OSError(),
    ],
)
def test_what_is_no_matter_of_files_keeps_its_traceback(other):
    assert explain(other) is None

    def main(argv):
        raise other

    with pytest.raises(OSError) as raised:
        cli.run(main)
    assert raised.value is other


def test_a_write_that_names_no_path_is_given_one(tmp_path, capsys):
    def main(argv):
        with naming(tmp_path / "full"), open("/dev/full", "w") as file:
            file.write("x")

    assert cli.run(main) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/full: No space left on device;")


@pytest.fixture
def config(tmp_path):
    return write_run(tmp_path)


def refused(capsys, config, output) -> str:
    argv = ["-c", str(config), "-o", f"Global.output_dir={output}"]
    assert cli.run(train_tool.main, argv) == 2
    line = error_line(capsys.readouterr().err)
    assert line.startswith("error: Global.output_dir: ")
    return line


@pytest.mark.parametrize(
    "output,said",
    [
        ("file", "file: File exists; something else has this name"),
        ("file/below", "file/below: Not a directory; a part of this path is a file"),
        ("x" * 300, "File name too long; name a shorter path"),
        ("/proc/1", "/proc/1/.lock: "),
        ("/sys/here", "/sys/here: "),
        ("circle/here", "Too many levels of symbolic links; its links lead in a circle"),
    ],
)
def test_an_output_dir_that_cannot_be(config, tmp_path, monkeypatch, capsys, output, said):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("circle").symlink_to("circle")
    assert said in refused(capsys, config, output)
    assert Path("file").read_text() == "mine"


def test_what_stood_there_stays_when_the_disk_fills(tmp_path):
    """A text, as a configuration or a vocabulary is, on a disk of 8 MiB."""
    if not may_mount(tmp_path):
        pytest.skip("unshare may not mount here")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import sys
from pathlib import Path
from ernie_vil2 import cli
from ernie_vil2.files.durable import replace_text
path = Path({str(disk)!r}, "text")
replace_text(path, "old")
sys.exit(cli.run(lambda argv: replace_text(path, "new" * 10**7)))
"""
    done = subprocess.run(
        [*on_small_disk(disk), sys.executable, "-c", script],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {disk}/text: No space left on device; free space")
    (left,) = (tmp_path / "disk.after").iterdir()
    assert left.name == "text" and left.read_text() == "old"


def test_a_draft_is_not_named(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        replace_text(tmp_path / "none" / "text", "x")
    assert raised.value.filename == str(tmp_path / "none" / "text")


def test_a_draft_is_not_left(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        replace_text(tmp_path / "folder", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
