"""Ends a process that makes no progress, so that a hung run stops with a message.

Each rank watches itself. A rank that is stopped, dead to the network or stuck in its data loading
leaves its peers waiting inside a collective; there is no progress there either, so they end, and
paddle.distributed.launch then ends (or restarts) the whole job, the stopped rank included.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import threading
import time

log = logging.getLogger("ernie_vil2")

EXIT_CODE = 1  # as any failure that is not the user's mistake: a restart may help
REPORT_SECONDS = 10  # the message itself may hang, where stderr or train.log is what is stuck


def end_now(code: int) -> None:
    """End this process without clean-up, which could wait for what hangs."""
    for child in multiprocessing.active_children():  # loader processes, which may hang too
        child.kill()
    os._exit(code)


class Watchdog:
    """A thread that ends this process when `beat` was not called for `limit` seconds.

    It works while the main thread is inside a collective, `Tensor.numpy()` or a file read: all of
    them release Python's global lock. Time during which the whole process was stopped (Ctrl-Z,
    SIGSTOP, a suspended machine) does not count, so a process that is continued goes on.

    Args:
        limit: seconds; None or 0 watches nothing.
        rank: named in the message.
        key: the configuration key of `limit`, named in the message.
        first: seconds that the phase before the first `beat` may take; 3 times `limit` by default,
            since it holds start-up. The last phase is ended by `close`, or by leaving the `with`
            block.
    """

    def __init__(
        self,
        limit: float | None,
        rank: int = 0,
        key: str = "Distributed.hang_timeout",
        first: float | None = None,
    ):
        self.limit = limit or 0.0
        self.rank, self.key = rank, key
        self._closed = threading.Event()
        if limit:
            self.beat("start-up", first or 3 * limit)
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, phase: str, limit: float | None = None) -> None:
        """Show progress: `phase` begins now. It costs an assignment.

        limit: seconds that this phase alone may take; math.inf for any time.
        """
        self._last = (phase, limit or self.limit, time.time())

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _watch(self) -> None:
        interval = min(self.limit / 20, 5.0)
        seen, idle = None, 0.0
        # Intervals are counted instead of reading a clock, which runs on in a stopped process.
        while not self._closed.wait(interval):
            last = self._last
            idle = idle + interval if last is seen else 0.0
            seen = last
            if idle >= last[1]:
                self._end(*last)

    def _end(self, phase: str, limit: float, since: float) -> None:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
        message = (
            f'rank {self.rank} hangs: no progress in "{phase}" since {began}, more than '
            f"{limit:g} s ({self.key}: {self.limit:g}); it ends with code {EXIT_CODE}. It waits "
            "for another rank if its main thread is in a collective. --resume auto goes on from "
            "the last checkpoint"
        )
        report = threading.Thread(target=self._report, args=(message,), daemon=True)
        report.start()
        report.join(REPORT_SECONDS)
        end_now(EXIT_CODE)

    @staticmethod
    def _report(message: str) -> None:
        os.write(2, f"error: {message}\n".encode())
        faulthandler.dump_traceback(2)
        for handler in log.handlers:  # the log file; stderr has the message by now
            if isinstance(handler, logging.FileHandler):
                handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, message, (), None))
