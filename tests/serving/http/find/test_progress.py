"""What the notes of a collection say of an index in work."""

import os
import subprocess
import sys

import pytest

from ernie_vil2.serving.http.find.progress import indexing


def test_of_a_process_at_work():
    notes = {"indexing": {"done": 63, "total": 100, "pid": os.getpid()}}
    assert indexing(notes) == {"done": 63, "total": 100, "percent": 63}


@pytest.mark.parametrize(
    "told",
    [
        None,
        "63 %",
        {"done": 1},
        {"done": 1, "total": 0, "pid": os.getpid()},
        {"done": 1, "total": 2, "pid": -1},
        {"done": 1, "total": 2, "pid": 2**70},
    ],
)
def test_of_none(told):
    assert indexing({} if told is None else {"indexing": told}) is None


def test_of_a_process_that_was_killed():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert indexing({"indexing": {"done": 1, "total": 2, "pid": process.pid}}) is None
