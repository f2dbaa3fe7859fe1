"""Rows of any size, read alone."""

import os
import subprocess
import sys

from ernie_vil2.data.formats import spans
from ernie_vil2.data.formats.build import build_reader
from tests.support.paths import ROOT
from tests.support.rows import b64, bad, write


def test_a_row_larger_than_any_picture_is_a_bad_record(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "MAX_ROW_BYTES", 1000)
    path = write(tmp_path / "a.tsv", b"text\tid\tAAAA", b"x" * 1001, b"x" * 1000)
    reader = build_reader("tsv", path=path)
    assert reader[0].captions == ("text",)
    assert bad(reader, 1).reason == "a row of 1001 bytes, at most 1000 are read"
    assert "1 columns" in bad(reader, 2).reason


def test_memory_stays_flat(tmp_path):
    """200 MB in rows of 1 MB: neither indexing nor reading holds more than a few rows."""
    image = b64(os.urandom(750_000))
    with open(tmp_path / "big.tsv", "wb") as file:
        for i in range(200):
            file.write(b"text %d\tid\t%s\n" % (i, image))
    script = """
import resource, sys
from ernie_vil2.data.formats.build import build_reader
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_reader("tsv", path=sys.argv[1])  # so that all code is loaded
before = peak()
reader = build_reader("tsv", path=sys.argv[2])
for i in range(0, 200, 20):
    assert reader[i].captions == (f"text {i}",)
print(len(reader), (peak() - before) // 1024)
"""
    small = write(tmp_path / "small.tsv", b"a\tb\tAAAA")
    command = [sys.executable, "-c", script, small, str(tmp_path / "big.tsv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 200 and grown < 20, f"memory grew by {grown} MB"
