r"""A map over pieces of a data set that goes on where it was interrupted.

A piece is a range of numbers, of records as a rule; `work(piece, folder)` does it by writing files
to an empty folder. That folder appears whole, under a name of its own, or not at all, so what is
there is done: after Ctrl-C, kill -9 or a lost machine the map does what is missing, and the files
are the same bytes for any number of processes. `work` must therefore be a function of its piece:
no clock, no chance, nothing that another piece has done. A further command needs these lines
(`job.py` has the folder, `source.py` what the command line names):

    class Count:  # pickled for Ray, so a class or function of a module
        def __init__(self, source):
            self.source = source

        def __call__(self, piece, folder):
            with text_file(folder / "ids.txt") as file:
                for number, record in self.source.records(piece):
                    if isinstance(record, Record):  # else a BadRecord
                        file.write(f"{record.id}\n")

    with opened(out, source, {"command": "ids"}, outputs=["ids.txt"], restart=False) as job:
        if not job.done:
            parts = job.map("reading", Count(source), pieces(len(source.reader)), engine)
            with durable.replaced(out / "ids.txt") as draft, open(draft, "wb") as file:
                for part in parts:  # in order
                    file.write((part / "ids.txt").read_bytes())
            job.finish()
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from ernie_vil2 import runtime
from ernie_vil2.data.workers import WorkerDied, WorkerPool
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable

MAX_RESTARTS = 3  # of a worker that dies, in a row
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEAST, _MOST = 1000, 4096  # records of a piece; pieces

Work = Callable[[range, Path], None]


@dataclass(frozen=True)
class Engine:
    """Who does a map's pieces.

    Attributes:
        name: "local", processes of this machine; "ray", a Ray cluster whose machines share the
            output folder.
        processes: at a time; 0: this process itself; None: a core each.
    """

    name: str = "local"
    processes: int | None = None


HERE = Engine(processes=0)  # for what is small, or one piece that needs all others' results


def pieces(size: int, length: int | None = None, least: int = _LEAST) -> list[range]:
    """Ranges of `length` that cover 0 to `size`; None: `least` or more, so that there are few."""
    length = length or max(least, -(-size // _MOST))
    return [range(start, min(start + length, size)) for start in range(0, size, length)]


def map_pieces(
    work: Work, ranges: Sequence[range], folder: Path, title: str, engine: Engine
) -> list[Path]:
    """Do `work(piece, empty folder)` for each piece that is not done yet, in any order.

    Args:
        folder: for this map alone, kept between interrupted runs; on a disk that all processes
            share.
        title: what is done, for the progress bar.

    Returns:
        The pieces' folders, in the pieces' order.

    Raises:
        UserError: also where a piece's process died again and again; it names the records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    places = [folder / f"{number:06d}" for number in range(len(ranges))]
    there = set(os.listdir(folder))
    left = [number for number, place in enumerate(places) if place.name not in there]
    tasks = [Task(work, ranges[number], places[number], title) for number in left]
    total = sum(map(len, ranges))
    bar = tqdm(
        desc=title,
        total=total,
        initial=total - sum(len(task.piece) for task in tasks),
        unit=" records",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file keeps every state of it
    )
    with bar, contextlib.closing(_started(tasks, engine)) as done:
        for number in done:
            bar.update(len(tasks[number].piece))
    return places


@dataclass(frozen=True)
class Task:
    """One piece of a map. Calling it does it, unless it is done."""

    work: Work
    piece: range
    place: Path
    title: str

    def __call__(self) -> None:
        if self.place.exists():  # by a process that was thought lost
            return
        with durable.replacing_folder(self.place) as folder:
            try:
                self.work(self.piece, folder)
            except UserError:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise  # of `folder`
                raise RuntimeError(f"{self}: {type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        return f"{self.title}, records {self.piece.start} to {self.piece.stop - 1}"


def _sweep(folder: Path) -> None:
    """Remove what killed processes have begun.

    One of them may still be writing: with its folder renamed first, it cannot finish.
    """
    for draft in folder.glob(".draft-*"):
        aside = folder / f".aside-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(draft, aside)
    for aside in folder.glob(".aside-*"):
        shutil.rmtree(aside, ignore_errors=True)


# -- Engines: generators of the numbers of the tasks that are done ---------------------------------


def _started(tasks: Sequence[Task], engine: Engine) -> Generator[int, None, None]:
    if engine.name == "ray":
        from ernie_vil2.data.jobs.ray_engine import on_ray

        return on_ray(tasks, engine.processes, MAX_RESTARTS)
    assert engine.name == "local", engine.name
    if engine.processes == 0:
        return _here(tasks)
    return _on_processes(tasks, engine.processes or runtime.usable_cores())


def _here(tasks: Sequence[Task]) -> Generator[int, None, None]:
    for number, task in enumerate(tasks):
        task()
        yield number


def _on_processes(tasks: Sequence[Task], processes: int) -> Generator[int, None, None]:
    def done(number: int) -> dict[str, int]:
        cv2.setNumThreads(
            0
        )  # there is a process for each core; and its threads do not survive fork
        tasks[number]()
        return {"number": number}

    workers = min(processes, len(tasks))
    if not workers:
        return
    pool = WorkerPool(done, len(tasks), workers, 1, threading.Event(), max_restarts=MAX_RESTARTS)
    try:
        for result in pool:
            yield result["number"]
    except WorkerDied as error:
        raise UserError(
            f"{tasks[error.task]}: {error}: is there memory enough for --processes {processes}?"
        ) from error
    finally:
        pool.close()
