"""What every command does with Ctrl-C and with numbers, and that it says so in one line."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie_vil2 import cli
from tests.support.paths import ROOT


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


@pytest.mark.parametrize("error", [None, ImportError("initialization failed"), SystemError()])
def test_ctrl_c_is_one_line_whatever_it_comes_out_as(capsys, error):
    """The extension modules of an import turn it into errors of their own."""

    def main(argv):
        try:
            interrupt()
        except KeyboardInterrupt:
            if error:
                raise error from None
            raise

    assert cli.run(main) == 1
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_same_error_without_ctrl_c_keeps_its_traceback():
    def main(argv):
        raise ImportError("initialization failed")

    with pytest.raises(ImportError):
        cli.run(main)


def test_a_caller_s_own_handler_stays():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        assert cli.run(lambda argv: os.kill(os.getpid(), signal.SIGINT)) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]


@pytest.mark.parametrize("pause", [0, 0.05, 0.2])
def test_ctrl_c_while_paddle_is_imported(pause):
    """Its extension module turns it into an ImportError, and prints lines of its own."""
    process = subprocess.Popen(
        [sys.executable, "tools/train.py", "-c", "configs/demo.yaml", "--doctor"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while "libpaddle" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "interrupted\n")


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (cli.positive, "0", "'0' is no whole number from 1 to 999999999"),
        (cli.positive, "-1", "'-1' is no whole number from 1 to 999999999"),
        (cli.positive, "٣", "'٣' is no whole number from 1 to 999999999"),
        (cli.positive, "9" * 5000, f"'{'9' * 20}...' is no whole number from 1 to 999999999"),
        (cli.port, "0", "'0' is no whole number from 1 to 65535"),
        (cli.port, "65536", "'65536' is no whole number from 1 to 65535"),
        (cli.whole(3, 5), "2", "'2' is no whole number from 3 to 5"),
    ],
)
def test_every_whole_number_is_refused_in_one_form(read, text, expected):
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    assert str(refused.value) == expected


def test_whole_numbers_within_their_limits_are_read():
    assert (cli.positive("999999999"), cli.port("65535"), cli.whole(3, 5)("3")) == (
        10**9 - 1,
        65535,
        3,
    )
