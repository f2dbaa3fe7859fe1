"""One process at a time writes to a collection in Milvus, which itself knows no locks.

A writer puts a note with a random name and a count into the collection's properties and counts on
every few seconds. Who finds such a note waits until the count has stood still for longer than that,
and then takes over; so a killed writer is in the way for LEASE seconds at most, and clocks of
different machines need not agree. Two that begin in the same half second see each other's note, and
the one whose note stays goes on; a writer that was suspended for longer than LEASE seconds finds
out when it goes on. It keeps honest processes apart. It is no lock that the server enforces.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ernie_vil2.errors import UserError
from ernie_vil2.search.ended import ended

BEAT, LEASE = 3.0, 12.0  # seconds
_SETTLE = 0.5  # seconds in which two that begin at once see each other


class Lease:
    """The right to write; taken when made.

    Args:
        uri: of the collection, for messages.
        read, write: the note: a text, "" for none. They may raise UserError.
    """

    def __init__(self, uri: str, read: Callable[[], str], write: Callable[[str], None]):
        self._uri, self._read, self._write = uri, read, write
        self._token, self._count = secrets.token_hex(8), 0
        self._seen = time.monotonic()  # when the note was surely ours
        self._lost, self._stopped = False, threading.Event()
        self._take()
        self._thread = threading.Thread(target=self._beat, name="writer's lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise UserError where another process has taken over."""
        if self._lost or (time.monotonic() - self._seen > LEASE and not self._renew()):
            raise UserError(
                f"{self._uri}: this process was away for more than {LEASE:.0f} s, and another one "
                "writes to this collection now: start again when it has ended"
            )

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join()
            if not self._lost and self._mine():
                self._write("")

    def _take(self) -> None:
        found = self._read()
        if found and not _dead(json.loads(found)):
            end = time.monotonic() + LEASE
            while found and time.monotonic() < end:
                time.sleep(BEAT / 4)
                now = self._read()
                if now != found and now:
                    self._refuse(json.loads(now))
                found = now
        self._put()
        time.sleep(_SETTLE)
        if not self._mine():
            self._refuse(json.loads(self._read() or "{}"))

    def _refuse(self, holder: dict[str, Any]) -> None:
        who = "process {process} on {host}".format(**{"process": "?", "host": "?", **holder})
        raise UserError(
            f"{self._uri}: another process writes to this collection ({who}); wait for its end, or "
            "stop it"
        )

    def _put(self) -> None:
        note = {"token": self._token, "process": os.getpid(), "host": socket.gethostname()}
        self._count += 1
        self._write(json.dumps({**note, "count": self._count}))
        self._seen = time.monotonic()

    def _mine(self) -> bool:
        return json.loads(self._read() or "{}").get("token") == self._token

    def _renew(self) -> bool:
        if self._mine():
            self._put()
            return True
        self._lost = True
        return False

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT):
            try:
                if not self._renew():
                    return
            except UserError:  # the server is away: it has the note when it is back
                continue


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    return ended(holder.get("host"), int(holder.get("process", 0)))
