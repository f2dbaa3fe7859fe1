"""Worker processes whose death costs nothing but time.

Written here because paddle's multi-process DataLoader does not survive one: a SIGCHLD handler
throws SystemError at whatever line the training is, a stopped worker blocks it for ever, a worker's
exception is printed by a thread and lost, and segments stay behind in /dev/shm.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, Optional

import numpy as np

from ernie_vil2.data.arrays import Array

log = logging.getLogger("ernie_vil2")

_AHEAD = 2  # tasks given to a worker at a time
_LOOK = 0.5  # seconds between checks of what no file descriptor reports
_ALIGN = 64  # bytes; arrays in shared memory begin at its multiples
_fork = multiprocessing.get_context("fork")  # others would pickle the data set for each worker

Result = dict[str, Any]  # of a task: arrays, and other things by name
# of what is in a result: its name; dtype, shape and place of an array; or what the pipe carries
_Layout = list[tuple[str, Optional[tuple[str, tuple[int, ...], int]], Any]]
_Error = tuple[Exception, str]  # and its traceback
_Reply = tuple[Optional[_Layout], Optional[_Error]]


class WorkerDied(RuntimeError):
    """A death too many.

    Attributes:
        task: the number of the one that the worker was at.
    """

    def __init__(self, message: str, task: int):
        super().__init__(message)
        self.task = task


class WorkerPool(Iterator[Result]):
    """`task(0)` ... `task(count - 1)`, done by processes and given in this order.

    The arrays given are views of shared memory and hold until the next is asked for. That memory
    has no name: the kernel frees it with the last process, however that ends, and a container's
    small /dev/shm does not limit it.

    Args:
        task: int -> dict of arrays, and of other things, small ones that can be pickled; a function
            of its number alone: what a dead worker had not finished is done again by the one that
            replaces it, so nothing is lost or repeated.
        count: how many tasks.
        num_workers: processes, 1 or more.
        result_bytes: the most that the arrays of a result take.
        stopped: set by another thread, it ends the iteration within a second.
        timeout: seconds to wait for the next result before its worker counts as dead; None: for
            ever.
        max_restarts: so many deaths in a row, without a result in between, are allowed. SIGTERM
            does not count: somebody sent it, to all of them as a rule.

    Raises:
        WorkerDied: one death too many. An exception of `task` is raised as it is, where its
            result would be.
    """

    def __init__(
        self,
        task: Callable[[int], Result],
        count: int,
        num_workers: int,
        result_bytes: int,
        stopped: threading.Event,
        timeout: float | None = None,
        max_restarts: int = 3,
    ):
        self.task, self.count = task, count
        self.timeout, self.max_restarts = timeout, max_restarts
        self.stopped = stopped
        self._asked = self._given = self._deaths = 0
        self._slots = [mmap.mmap(-1, result_bytes) for _ in range(_AHEAD * num_workers)]
        self._free = list(range(len(self._slots)))
        self._lent: int | None = None  # the slot of the result given last
        self._results: dict[int, tuple[int, _Layout | None, _Error | None]] = {}  # by number
        self._workers = [_Worker(task, self._slots) for _ in range(num_workers)]

    def __next__(self) -> Result:
        if self._lent is not None:
            self._free.append(self._lent)
            self._lent = None
        if self._given == self.count:
            raise StopIteration
        self._hand_out()
        waiting_since = time.monotonic()
        while self._given not in self._results:
            if self.stopped.is_set():
                raise StopIteration
            connection.wait([end for w in self._workers for end in w.ends], timeout=_LOOK)
            if self._look() or self._given in self._results:
                waiting_since = time.monotonic()
            elif self.timeout and time.monotonic() - waiting_since > self.timeout:
                late = next(w for w in self._workers if self._given in dict(w.tasks))
                self._replace(late, f"gave nothing for {self.timeout:g} s")
                waiting_since = time.monotonic()
        self._lent, layout, error = self._results.pop(self._given)
        self._given += 1
        self._deaths = 0
        if error:
            raise error[0] from RuntimeError(f"in a data worker:\n{error[1]}")
        assert layout is not None, "neither a result nor an error"
        return _unpack(self._slots[self._lent], layout)

    def close(self) -> None:
        """End the workers; no thread may be in `next` then."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _hand_out(self) -> None:
        while self._free and self._asked < self.count:
            idle = min(self._workers, key=lambda worker: len(worker.tasks))
            idle.give(self._asked, self._free.pop())
            self._asked += 1

    def _look(self) -> bool:
        """Take the results that have come, and replace dead workers; whether there were any."""
        found = False
        for worker in list(self._workers):
            # asked first: what it sent before its end may still lie in the pipe
            alive = worker.process.is_alive()
            self._results.update(worker.receive())
            if not alive or worker.closed:
                found = True
                self._replace(worker, "died")
        return found

    def _replace(self, worker: _Worker, what: str) -> None:
        if what == "died":
            worker.process.join(timeout=1)  # its pipe may end a moment before it does
            code = worker.process.exitcode or 0
            signal_name = code < 0 and signal.strsignal(-code)
            what += f" of signal {-code} ({signal_name})" if code < 0 else f" with exit code {code}"
        worker.kill()
        what = f"data worker (pid {worker.process.pid}) {what}"
        self._deaths += worker.process.exitcode != -signal.SIGTERM
        if self._deaths > self.max_restarts:
            message = f"{what}; {self._deaths} in a row without a batch between them"
            raise WorkerDied(message, worker.tasks[0][0] if worker.tasks else self._given)
        log.warning("%s; restarted, no sample is lost or repeated", what)
        successor = _Worker(self.task, self._slots)
        for number, slot in worker.tasks:
            successor.give(number, slot)
        self._workers[self._workers.index(worker)] = successor


class _Worker:
    """One process, the tasks it has, and the pipe to it, which carries what is no array."""

    def __init__(self, task: Callable[[int], Result], slots: list[mmap.mmap]):
        self.tasks: deque[tuple[int, int]] = deque()  # (number, slot), the one at work first
        self.closed = False  # its end of the pipe
        self.pipe, its_end = _fork.Pipe()
        self.process = _fork.Process(
            target=_work, args=(task, slots, its_end, os.getpid()), daemon=True
        )
        blocked = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT}
        )  # the worker ignores it later
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            its_end.close()  # so that its death ends the pipe

    @property
    def ends(self) -> tuple[Any, int]:
        """What becomes readable with a result, or with the worker's end."""
        return self.pipe, self.process.sentinel

    def give(self, number: int, slot: int) -> None:
        self.tasks.append((number, slot))
        with contextlib.suppress(OSError):  # it is dead, which `_look` will find
            self.pipe.send((number, slot))

    def receive(self) -> dict[int, tuple[int, _Layout | None, _Error | None]]:
        """Results that have come: number -> (slot, layout, error)."""
        results = {}
        try:
            while self.pipe.poll():
                layout, error = self.pipe.recv()
                number, slot = self.tasks.popleft()
                results[number] = slot, layout, error
        except (EOFError, OSError):
            self.closed = True
        return results

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process, and reap it.

        One that sleeps in the kernel, on a dead network disk say, can't be waited for: it will end
        before it runs another line, so the memory it shares is safe.
        """
        self.process.kill()
        self.process.join(timeout=5)
        self.pipe.close()


def _work(
    task: Callable[[int], Result],
    slots: list[mmap.mmap],
    pipe: connection.Connection,
    parent: int,
) -> None:
    """What a worker process does until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the trainer saves first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the trainer's handler
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # where memory runs out, the kernel ends what can be replaced
    while os.getppid() == parent:
        if not pipe.poll(_LOOK):
            continue
        try:
            number, slot = pipe.recv()
        except EOFError:
            return
        reply: _Reply
        try:
            reply = _pack(slots[slot], task(number)), None
        except Exception as error:
            reply = None, (_portable(error), traceback.format_exc())
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            pipe.send(reply)


def _portable(error: Exception) -> Exception:
    """`error`, or, where it cannot be sent to another process, one with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _pack(slot: mmap.mmap, result: Result) -> _Layout:
    """Put the arrays into the slot."""
    layout: _Layout = []
    start = 0
    for name, array in result.items():
        if not isinstance(array, np.ndarray):
            layout.append((name, None, array))
            continue
        layout.append((name, (array.dtype.str, array.shape, start), None))
        assert start + array.nbytes <= len(slot), f"{name} {array.shape}: more than result_bytes"
        _view(slot, array.dtype.str, array.shape, start)[...] = array
        start += -(-array.nbytes // _ALIGN) * _ALIGN
    return layout


def _unpack(slot: mmap.mmap, layout: _Layout) -> Result:
    return {name: _view(slot, *where) if where else value for name, where, value in layout}


def _view(slot: mmap.mmap, dtype: str, shape: tuple[int, ...], start: int) -> Array:
    count = int(np.prod(shape))
    return np.frombuffer(slot, dtype, count, offset=start).reshape(shape)
