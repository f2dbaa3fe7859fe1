"""Files of a store as a reader opens them: through this machine's cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ernie_vil2.data.files import store
from ernie_vil2.data.files.ahead import Ahead
from ernie_vil2.data.files.cache import Cache
from ernie_vil2.data.files.retry import Retry

_AT_ONCE = 2  # files that a process fetches ahead at a time


class RemoteFiles:
    """The files at URLs that fsspec knows; see `Files`.

    Their sizes and versions are those of when this was made. It can be pickled, and used in forked
    processes and by threads.

    Args:
        urls: of one store or several.
        cache: None: the default one.
        retry: how long a store that fails is asked again.

    Raises:
        StoreError: a file is not there, or the store does not answer.
        UserError: a package is missing, or a file is larger than the cache may become.
    """

    def __init__(self, urls: Sequence[str], cache: Cache | None = None, retry: Retry | None = None):
        self.names: Sequence[str] = tuple(urls)
        self._retry = Retry() if retry is None else retry
        self._cache = Cache() if cache is None else cache
        self._remotes = store.describe(self.names, self._retry)
        if self._remotes:
            self._cache.check(max(self._remotes, key=lambda remote: remote.size))
        self._cache.forgive(self._remotes)
        self._ahead: Ahead | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ahead": None}

    def size(self, number: int) -> int:
        return self._remotes[number].size

    def version(self, number: int) -> str:
        return self._remotes[number].version

    def open(self, number: int) -> BinaryIO:
        """A file of the cache. Raises StoreError where the store does not give it."""
        never = threading.Event()
        return self._cache.open(
            self._remotes[number], lambda path: self._fetch(number, path, never)
        )

    def ahead(self, numbers: Iterable[int]) -> None:
        """Fetch these in the background, as far as half of the cache holds them."""
        if self._ahead is None or self._ahead.pid != os.getpid():
            self._ahead = Ahead(self._bring, _AT_ONCE)
        room, wished = self._cache.bound() // 2, []
        for number in dict.fromkeys(numbers):
            room -= self.size(number)
            if room < 0:
                break
            wished.append(number)
        self._ahead.wish(wished)

    def _bring(self, number: int, stopped: threading.Event) -> None:
        remote = self._remotes[number]
        self._cache.bring(remote, lambda path: self._fetch(number, path, stopped))

    def _fetch(self, number: int, path: Path, stopped: threading.Event) -> None:
        store.fetch(self._remotes[number], str(path), self._retry, stopped)
