"""What the operating system refuses is one line with the path and the remedy."""

import errno
import os
from pathlib import Path

import pytest

from ernie_vil2 import cli
from ernie_vil2.os_errors import explain
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
