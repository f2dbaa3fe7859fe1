"""Runs of `tools/embed.py` that die at chosen moments, forked from a server that has Paddle.

Not from the test's own process: there threads of Paddle's products have run, which no fork keeps.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue

import numpy as np
import paddle  # noqa: F401  # what a run imports later

from ernie_vil2 import cli
from ernie_vil2.commands.embed import main
from ernie_vil2.serving import tower


def dies(context: BaseContext, number: int, command: list[str]) -> int | None:
    """Call `main(command)` in a child that is killed before one of the calls that write.

    Args:
        context: `forking(__name__)`, of this module.
        number: of that call, from 1; 0: none.

    Returns:
        How many of these calls there were, or None where it was killed.
    """
    told = context.SimpleQueue()
    process = context.Process(target=_run, args=(number, command, told))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("a run hangs")
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0
    return told.get()


# -- In the forked process -------------------------------------------------------------------------


def _run(number: int, command: list[str], told: SimpleQueue) -> None:
    kinds = [(os, name) for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink")]
    kinds += [(np, "save"), (np.lib.format, "write_array_header_1_0"), (tower.Tower, "__call__")]
    calls = 0

    def counted(real):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    for owner, name in kinds:
        setattr(owner, name, counted(getattr(owner, name)))
    code = cli.run(main, command)
    told.put(calls)
    os._exit(code)
