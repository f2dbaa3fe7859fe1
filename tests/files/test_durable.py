"""What stood there stays, and an error names it, whatever the disk refuses."""

import re
import subprocess
import sys

import pytest

from ernie_vil2 import cli
from ernie_vil2.files.durable import naming, replace_text
from tests.support.paths import ROOT
from tests.support.processes import may_mount, on_small_disk


def test_a_write_that_names_no_path_is_given_one(tmp_path, capsys):
    def main(argv):
        with naming(tmp_path / "full"), open("/dev/full", "w") as file:
            file.write("x")

    assert cli.run(main) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/full: No space left on device;")


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
