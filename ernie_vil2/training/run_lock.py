"""One run at a time in an output_dir: the second is refused before it touches anything.

The lock is one of fcntl's, on the file `.lock`, held by rank 0's process for as long as it lives:
the kernel frees it however the process ends, kill -9 included, and data workers, which are forked,
don't keep it. It works between machines over NFS version 4, and version 3 with a lock service.
The file itself stays, and means nothing; what stands in it is for the message.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ernie_vil2 import os_errors
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import check_room, naming
from ernie_vil2.training import launcher

log = logging.getLogger("ernie_vil2")

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_SIZE = 512  # bytes of the file, written at once, so that nobody reads a part


class RunLock:
    """The lock of `output`, which is made where it is missing.

    Args:
        wait: seconds to wait for a run that says it is leaving, as one does that saves its
            checkpoint after SIGTERM, or whose launcher has died.
    """

    def __init__(self, output: Path, wait: float = launcher.LEAVE_WITHIN + 60):
        self.output, self.wait = output, wait
        self._file: int | None = None
        self._process = os.getpid()

    def acquire(self) -> None:
        """Take the lock. Raises UserError where another process has it, OSError as the disk does.

        Where the file system knows no locks there is a warning, and the run goes on without.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        self._file = file = os.open(
            self.output / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            deadline, told = time.monotonic() + self.wait, False
            while not self._try(file):
                holder = self._holder(file)
                if not holder.get("leaving") or time.monotonic() > deadline:
                    raise UserError(self._refusal(holder))
                if not told:
                    log.warning("waiting for %s, which leaves %s", _name(holder), self.output)
                told = True
                time.sleep(0.2)
            self._write(file, leaving=False)
        except BaseException:
            self.release()
            raise

    def leaving(self) -> None:
        """Let one who waits know that this run is about to end. May be called by a signal."""
        if self._file is not None and os.getpid() == self._process:  # not in a forked worker
            with contextlib.suppress(OSError):
                self._write(self._file, leaving=True)

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _try(self, file: int) -> bool:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: another has it
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "%s cannot be locked (%s): let no second run write there", self.output, error
            )
        return True

    def _write(self, file: int, leaving: bool) -> None:
        content = {
            "process": self._process,
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "leaving": leaving,
        }
        with naming(self.output):
            os.pwrite(file, json.dumps(content).ljust(_SIZE - 1).encode() + b"\n", 0)

    def _holder(self, file: int) -> dict:
        """What the run that has the lock says of itself."""
        try:
            content = json.loads(os.pread(file, _SIZE, 0))
        except (OSError, ValueError):  # it is just about to say it
            return {}
        return content if isinstance(content, dict) else {}

    def _refusal(self, holder: dict) -> str:
        return (
            f"{self.output} is in use by {_name(holder)}: wait for its end, stop it, or give this "
            "run another Global.output_dir"
        )


def _name(holder: dict) -> str:
    if "process" not in holder:
        return "another run"
    return "another run (process {process} on {host}, since {since})".format(
        **{"host": "?", "since": "?", **holder}
    )


@contextlib.contextmanager
def held(output: Path) -> Iterator[RunLock]:
    """The lock of a run, which its rank 0 holds inside; on every rank, after `distributed.init`.

    Raises UserError on all ranks where output_dir is in use, or cannot be written.
    """
    from ernie_vil2 import distributed  # and with it paddle

    lock, problem = RunLock(output), None
    if distributed.is_main():
        try:
            lock.acquire()
            check_room(output)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            line = os_errors.explain(error)
            problem = f"Global.output_dir: {line[0] if line else error}"
    problem = distributed.all_gather_objects(problem)[0]
    try:
        if problem:
            raise UserError(problem)
        launcher.when_dead(lock.leaving)
        yield lock
    finally:
        lock.release()
