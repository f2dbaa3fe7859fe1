"""A job's folder: what it is of, who works there, what is done, and what it may replace.

Under `.work/` lie `job.json`, which says what the job is, and a folder of the pieces that are done,
named after that, so that a process of an earlier job that still runs cannot add to this one's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_vil2.config.messages import show
from ernie_vil2.data.jobs.engine import Engine, Work, map_pieces
from ernie_vil2.data.jobs.source import Source
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable


class Job:
    """A job that has its folder for itself.

    Attributes:
        out: the folder.
        done: by an earlier run: everything is in `out` as it should be.
    """

    def __init__(self, out: Path, what: Mapping[str, Any], outputs: Sequence[str]):
        self.out, self.what, self.outputs = out, what, list(outputs)
        self.done = False
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        self.pieces = out / ".work" / digest[:16]

    def map(self, title: str, work: Work, ranges: Sequence[range], engine: Engine) -> list[Path]:
        """`map_pieces` in a folder of its own, which `title` names."""
        return map_pieces(work, ranges, self.pieces / title, title, engine)

    def finish(self) -> None:
        """Say that everything is in `out`, and remove the pieces."""
        self._write(done=True)
        self._clear()

    def _clear(self) -> None:
        """Remove all pieces; none is ever there by halves, whatever stops this."""
        for folder in (self.out / ".work").iterdir():
            if folder.is_dir():
                aside = folder.with_name(f".aside-{secrets.token_hex(8)}")
                os.rename(folder, aside)
                shutil.rmtree(aside, ignore_errors=True)  # a killed job's process may write there

    def _write(self, done: bool) -> None:
        content = {"what": self.what, "outputs": self.outputs, "done": done}
        durable.replace_text(_note(self.out), durable.sealed(content))


@contextlib.contextmanager
def opened(
    out: Path,
    source: Source,
    options: Mapping[str, Any],
    outputs: Sequence[str],
    restart: bool = False,
) -> Iterator[Job]:
    """The job in the folder `out`, which is made where it is missing, or the one that is there.

    Args:
        options: all that the output depends on beside the source; plain values.
        outputs: names or patterns of what it writes to `out`, the last of them last of all.
        restart: begin anew, whatever job is there.

    Raises:
        UserError: another job is there, or files of another origin, or another process works there.
    """
    out.mkdir(parents=True, exist_ok=True)
    what = {**source.identity(), **options}
    what = json.loads(json.dumps(what))  # as it is read back: lists, no tuples
    if not (out / ".work").is_dir():
        _refuse_others(out)
    (out / ".work").mkdir(exist_ok=True)
    with _locked(out):
        earlier = _earlier(out)
        if earlier is None:
            _refuse_others(out)
        job = Job(out, what, outputs)
        if earlier is not None and restart:
            _remove(out, earlier["outputs"])
            job._clear()
        elif earlier is not None:
            _compare(out, earlier["what"], what)
            job.done = earlier["done"] and bool(list(out.glob(outputs[-1])))
        if job.done:
            job._clear()
        else:
            job._write(done=False)
        yield job


def _note(out: Path) -> Path:
    return out / ".work" / "job.json"


def _earlier(out: Path) -> dict[str, Any] | None:
    try:
        return durable.read_json(_note(out), sealed=True)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{_note(out)}: {error}: remove {out}, or name another --out") from error


def _refuse_others(out: Path) -> None:
    if any(path.name != ".work" for path in out.iterdir()):
        raise UserError(f"--out {out} has files of another origin: name a new or an empty folder")


def _compare(out: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError unless both are the same job."""
    for name in {**earlier, **now}:
        if earlier.get(name) != now.get(name):
            was, new = show(earlier.get(name)), show(now.get(name))
            told = f"{name} {was}, not {new}" if len(was + new) < 80 else f"other {name}"
            raise UserError(
                f"--out {out} holds a job with {told}: --restart does it anew, another --out "
                "keeps both"
            )


def _remove(out: Path, outputs: Sequence[str]) -> None:
    for pattern in reversed(outputs):  # what says that the others are there goes first
        for path in out.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Raises UserError where another process has the folder; forked workers do not have it."""
    with open(out / ".work" / "lock", "wb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"--out {out}: another process does this job; wait for its end, or stop it"
                ) from error
            # a file system without locks: pieces still appear whole
        yield
