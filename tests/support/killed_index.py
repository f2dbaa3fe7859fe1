"""Runs of `tools/index.py` that die at chosen moments, forked from a server that has Paddle.

LanceDB is imported by each run for itself: its threads do not survive a fork.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import paddle  # noqa: F401  # what a run imports later
import pandas  # noqa: F401
import pyarrow.dataset  # noqa: F401

import ernie_vil2.serving.tower  # noqa: F401
from ernie_vil2 import cli
from ernie_vil2.commands import index as command
from ernie_vil2.search import rebuild, writer
from ernie_vil2.search.bad import BadPictures
from ernie_vil2.search.indexer import Indexer
from tests.support.processes import forking


@dataclass(frozen=True)
class Kill:
    """SIGKILL before the `call`th of the calls that are watched, or so many seconds after that.

    name: count calls of this name alone.
    """

    call: int
    seconds: float = 0.0
    name: str | None = None


@dataclass(frozen=True)
class Ended:
    """What became of a run.

    code: exit code, -9 if killed.
    calls: names of those that were watched, in order.
    added: paths and SHA-256 of what the collection had said that it keeps.
    log: what it printed.
    """

    code: int
    calls: list[str]
    added: set[tuple[str, str]]
    log: str


class Runs:
    """Runs the command with arguments again and again; what they say lies in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.context = forking(__name__)

    def __call__(self, *argv, kill: Kill | None = None) -> Ended:
        self.count += 1
        folder = self.folder / f"run{self.count:03d}"
        folder.mkdir(parents=True)
        process = self.context.Process(target=_run, args=([*map(str, argv)], kill, folder))
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"a run hangs: {folder}")
        added = map(json.loads, (folder / "added").read_text().splitlines())
        return Ended(
            process.exitcode,
            (folder / "calls").read_text().split(),
            {(path, sha256) for path, sha256 in added},
            (folder / "log").read_text(),
        )


# -- In the forked process -------------------------------------------------------------------------


def _run(argv: list[str], kill: Kill | None, folder: Path) -> None:
    with open(folder / "log", "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # so that there are moments enough
    writer.EVERY_PICTURES, writer.NOTE_SECONDS = 8, 0.05
    _watch(kill, folder)
    code = cli.run(command.main, argv)
    sys.stdout.flush()
    os._exit(code)


def _watch(kill: Kill | None, folder: Path) -> None:
    from ernie_vil2.search.lance import LanceCollection
    from ernie_vil2.search.table import Table

    calls = open(folder / "calls", "a", buffering=1)  # noqa: SIM115  # as long as the process
    added = open(folder / "added", "a", buffering=1)  # noqa: SIM115
    lock, counts = threading.Lock(), Counter()

    def passing(name: str) -> None:
        with lock:
            counts.update((name, None))  # None: of all
            calls.write(f"{name}\n")
            if kill is None or kill.name not in (name, None) or counts[kill.name] != kill.call:
                return
        if not kill.seconds:
            os.kill(os.getpid(), signal.SIGKILL)
        timer = threading.Timer(kill.seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

    add = LanceCollection.add

    def wrap(owner: object, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*args, **named):
            passing(name)
            result = function(*args, **named)
            if function is add:
                pictures = args[1]
                added.write("".join(json.dumps([x.path, x.sha256]) + "\n" for x in pictures))
            return result

        setattr(owner, name, wrapped)

    for owner, names in (
        (LanceCollection, "add delete note optimize vectors"),
        (Table, "change _sync"),
        (BadPictures, "add keep"),
        (Indexer, "_embed _delete"),
        (rebuild, "exchange"),
        (rebuild.shutil, "rmtree"),
        (os, "fsync replace"),
    ):
        for name in names.split():
            wrap(owner, name)
