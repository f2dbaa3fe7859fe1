"""Requests of many clients in few runs of the model: dynamic batching with a latency bound.

One thread loads and owns the model; it runs a batch as soon as it is full or its oldest item has
waited `max_wait` seconds. Knows nothing of HTTP, images or texts: an item is whatever the function
of its kind takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

log = logging.getLogger("ernie_vil2")

Compute = Callable[[list], Sequence]  # n items -> n results


class QueueFull(Exception):
    """No room for so many items now; `retry_after`: seconds until there probably is."""

    def __init__(self, retry_after: float):
        super().__init__(f"the queue is full, try again in {retry_after:.1f} s")
        self.retry_after = retry_after


class _Job:
    """The items of one `submit`, which may be spread over several batches."""

    def __init__(self, kind: str, items: list):
        self.kind = kind
        self.items = items
        self.taken = 0  # items that went into a batch
        self.results: list = []
        self.since = time.monotonic()
        self.future: Future = Future()


class Batcher:
    """A bounded queue before one worker thread.

    Args:
        load: called once in the worker thread; returns the function of each kind of item, each
            n items -> n results.
        max_batch: of each kind, most items that its function gets at a time.
        max_wait: seconds that an item waits for others while the worker is idle.
        max_queue: most items admitted at a time: in preparation, waiting or computed.
        on_batch: called after each batch with (kind, items, seconds).

    Attributes:
        ready: the model is loaded, and at work.
        error: what `load` raised, or None.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[str, Compute]],
        max_batch: Mapping[str, int],
        max_wait: float = 0.005,
        max_queue: int = 512,
        on_batch: Callable[[str, int, float], None] = lambda kind, items, seconds: None,
    ):
        self.max_batch = max_batch
        self.max_wait = max_wait
        self.max_queue = max_queue
        self.ready = False
        self.error: BaseException | None = None
        self._load = load
        self._on_batch = on_batch
        self._functions: Mapping[str, Compute] = {}
        self._queues: dict[str, deque[_Job]] = {}
        self._waiting: dict[str, int] = {}  # items of each queue
        self._last = ""  # the kind of the last batch
        self._admitted = 0
        self._seconds_per_item = 0.0  # a moving average
        self._busy_since: float | None = None
        self._closing = False
        self._changed = threading.Condition()  # guards all of the above
        # A daemon: a model that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing more, and finish what is queued.

        Returns:
            Whether the worker ended within `timeout` seconds.
        """
        with self._changed:
            self._closing = True
            self.ready = False
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return sum(self._waiting.values())

    @property
    def admitted(self) -> int:
        """Items admitted and not yet released."""
        return self._admitted

    def stuck(self, seconds: float) -> bool:
        """Whether the worker died, or has run one batch for longer than `seconds`."""
        since = self._busy_since
        late = since is not None and time.monotonic() - since > seconds
        return late or (self.ready and not self._thread.is_alive())

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Room for so many items, from before they are prepared until their results are used.

        Raises:
            QueueFull: there is none.
        """
        with self._changed:
            if self._admitted + items > self.max_queue:
                raise QueueFull(max(1.0, self._admitted * self._seconds_per_item))
            self._admitted += items
        try:
            yield
        finally:
            with self._changed:
                self._admitted -= items

    def submit(self, kind: str, items: Sequence) -> Future:
        """A future of the items' results, in order.

        Cancelling it drops what is not yet computed. It fails with the function's error if one of
        its batches did.

        Raises:
            RuntimeError: the batcher is not yet at work, or was closed.
        """
        job = _Job(kind, list(items))
        if not job.items:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._closing or not self.ready:
                raise RuntimeError("the batcher is not at work")
            self._queues[kind].append(job)
            self._waiting[kind] += len(job.items)
            self._changed.notify()

        def drop_if_cancelled(future: Future) -> None:
            if future.cancelled():
                self._drop(job)

        job.future.add_done_callback(drop_if_cancelled)
        return job.future

    # -- The worker --------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            functions = self._load()
        except BaseException as error:
            self.error = error
            return
        with self._changed:
            self._functions = functions
            self._queues = {kind: deque() for kind in functions}
            self._waiting = dict.fromkeys(functions, 0)
            self.ready = not self._closing
        while True:
            with self._changed:
                batch = self._next_batch()
                self._busy_since = time.monotonic()
            if batch is None:
                self._busy_since = None
                return
            self._run(*batch)
            self._busy_since = None
            del batch  # or its pixels stay until the next one

    def _next_batch(self) -> tuple[str, list[tuple[_Job, list]]] | None:
        """Wait for a batch: its kind, and of each job the items that are in it. None: closed."""
        while True:
            now = time.monotonic()
            heads = [queue[0] for queue in self._queues.values() if queue]
            due = [job for job in heads if self._due(job) <= now]
            if due:
                # in turns: a text must not wait for all images that came before it
                kind = min(due, key=lambda job: (job.kind == self._last, job.since)).kind
                self._last = kind
                return kind, self._take(kind)
            if self._closing:
                return None
            self._changed.wait(min(map(self._due, heads)) - now if heads else None)

    def _due(self, head: _Job) -> float:
        """When the batch that begins with `head` has to run."""
        if self._closing or self._waiting[head.kind] >= self.max_batch[head.kind]:
            return 0.0
        return head.since + self.max_wait

    def _take(self, kind: str) -> list[tuple[_Job, list]]:
        queue, room, parts = self._queues[kind], self.max_batch[kind], []
        while queue and room:
            job = queue[0]
            part = job.items[job.taken : job.taken + room]
            job.taken += len(part)
            room -= len(part)
            parts.append((job, part))
            if job.taken == len(job.items):
                queue.popleft()
        self._waiting[kind] -= sum(len(part) for _, part in parts)
        return parts

    def _run(self, kind: str, parts: list[tuple[_Job, list]]) -> None:
        items = [item for _, part in parts for item in part]
        start = time.monotonic()
        try:
            results = self._functions[kind](items)
            assert len(results) == len(items), (kind, len(results), len(items))
        except Exception as error:  # of this batch alone: the next ones are tried
            log.exception("a batch of %d (%s) failed", len(items), kind)
            for job, _ in parts:
                self._drop(job)
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error)
            return
        seconds = time.monotonic() - start
        per_item = seconds / len(items)
        self._seconds_per_item += 0.2 * (per_item - self._seconds_per_item)
        self._on_batch(kind, len(items), seconds)
        done = 0
        for job, part in parts:
            job.results += results[done : done + len(part)]
            done += len(part)
            complete = len(job.results) == len(job.items)
            # False where it was cancelled meanwhile
            if complete and job.future.set_running_or_notify_cancel():
                job.future.set_result(job.results)

    def _drop(self, job: _Job) -> None:
        """Forget what of a job is still queued."""
        with self._changed:
            queue = self._queues[job.kind]
            if job in queue:
                queue.remove(job)
                self._waiting[job.kind] -= len(job.items) - job.taken
