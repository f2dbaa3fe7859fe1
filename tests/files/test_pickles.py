"""Pickles of plain values, and all others, which are refused."""

import contextlib
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

from ernie_vil2.files.pickles import plain_value

VALUES = [
    None,
    0,
    -1,
    300,
    70_000,
    2**40,
    -(2**80),
    "",
    "猫",
    "x" * 70_000,
    (),
    (1,),
    [1, "a", [None]],
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values(protocol):
    for value in [*VALUES, tuple(VALUES), VALUES, ("a", "a", ["a"])]:
        assert plain_value(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_anything_else_is_refused(protocol):
    for value in [1.5, b"x", {1: 2}, {1}, os.system, ValueError("x"), (1, [{}])]:
        with pytest.raises(ValueError, match=r"a pickle that cannot be read: .*refused"):
            plain_value(pickle.dumps(value, protocol))


def test_a_damaged_pickle_is_a_value_error():
    whole = pickle.dumps((1, 2, "text"))
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            plain_value(whole[:end])
    for place in range(len(whole)):
        for byte in range(256):
            with contextlib.suppress(ValueError):
                plain_value(whole[:place] + bytes([byte]) + whole[place + 1 :])


def test_a_few_bytes_ask_for_no_memory():
    """Eight bytes ask for room for 2 ** 28 objects, others for a text of 2 ** 40 letters."""
    code = """
        import resource
        from ernie_vil2.files.pickles import plain_value
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        room, text = b"Nr\\xff\\xff\\xff\\x0f.", b"\\x8d" + bytes(5) + b"\\1\\0\\0."
        for data in (b"\\x80\\x04" + room, b"\\x80\\x04" + text):
            try:
                plain_value(data)
            except ValueError as error:
                print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert len(result.stdout.splitlines()) == 2, result.stderr
    assert "counts to 268435455 within" in result.stdout
