"""What the notes of a collection say of an index in work."""

import contextlib
import subprocess
import sys

import pytest

from ernie_vil2.search.open import open_collection
from ernie_vil2.search.progress import NOTE, indexing, note, progress_of
from ernie_vil2.search.rebuild import rebuilt

MODEL = {"weights": "any"}
AT_WORK = note(63, 100)
EXPECTED = {"done": 63, "total": 100, "percent": 63}


def test_of_a_process_at_work():
    assert indexing({NOTE: AT_WORK}) == EXPECTED


@pytest.mark.parametrize(
    "told",
    [
        None,
        "63 %",
        {"done": 1},
        {**AT_WORK, "total": 0},
        {**AT_WORK, "pid": -1},
        {**AT_WORK, "pid": 2**70},
        {**AT_WORK, "time": AT_WORK["time"] - 3600},  # its number is another process's by now
    ],
)
def test_of_none(told):
    assert indexing({} if told is None else {NOTE: told}) is None


def test_of_a_process_that_was_killed():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = {**AT_WORK, "pid": process.pid}
    assert indexing({NOTE: gone}) is None
    # of another machine's processes nothing is known but what they say
    assert indexing({NOTE: {**gone, "host": "another"}}) == EXPECTED


def test_one_that_is_made_anew(tmp_path):
    uri = str(tmp_path / "pictures.db")
    open_collection(uri, MODEL, dim=4, write=True).close()
    with contextlib.closing(open_collection(uri)) as reader:
        with rebuilt(uri, {"weights": "others"}, 4) as draft:
            assert progress_of(reader) is None
            draft.note(**{NOTE: AT_WORK})
            assert progress_of(reader) == EXPECTED
            draft.note(**{NOTE: None})
        assert progress_of(reader) is None
