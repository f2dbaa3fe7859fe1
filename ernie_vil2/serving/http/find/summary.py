"""What can be filtered by: the folders, tags and dates of a whole collection, counted now and then.

It takes seconds for a million pictures, so nobody waits for it, and it is done again only after ten
times as long as it took.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ernie_vil2.search.collection import Picture

_MOST = 1000  # of folders and of tags that are named
_LEAST_SECONDS = 5.0  # between two counts


@dataclass(frozen=True)
class Summary:
    """Folders and tags with their pictures, the most frequent first, and the range of dates."""

    folders: list[tuple[str, int]] = field(default_factory=list)
    tags: list[tuple[str, int]] = field(default_factory=list)
    oldest: int | None = None
    newest: int | None = None


class Summaries:
    """The last `Summary` of a collection that may change.

    Args:
        pictures: all of them, as they are when it is called.
    """

    def __init__(self, pictures: Callable[[], Iterable[Picture]]):
        self._pictures = pictures
        self._last: Summary | None = None
        self._of: int | None = None  # how many pictures there were
        self._again = 0.0  # not before
        self._working = threading.Lock()

    def latest(self, count: int, wait: float = 0.5) -> Summary | None:
        """That of the `count` pictures there are, or of those that were there a while ago.

        Args:
            wait: seconds, where there is none yet.
        """
        due = count != self._of and time.monotonic() >= self._again
        if due and self._working.acquire(blocking=False):
            thread = threading.Thread(target=self._work, args=(count,), daemon=True)
            thread.start()
            if self._last is None:
                thread.join(wait)
        return self._last

    def _work(self, count: int) -> None:
        try:
            start = time.monotonic()
            self._last, self._of = summarise(self._pictures()), count
            took = time.monotonic() - start
            self._again = time.monotonic() + max(_LEAST_SECONDS, 10 * took)
        except Exception:
            self._again = time.monotonic() + _LEAST_SECONDS  # the request for pictures says why
        finally:
            self._working.release()


def summarise(pictures: Iterable[Picture]) -> Summary:
    """Count folders, with those below them, tags and dates."""
    direct: Counter[str] = Counter()
    tags: Counter[str] = Counter()
    oldest: int | None = None
    newest: int | None = None
    for picture in pictures:
        direct[picture.path.rpartition("/")[0]] += 1
        tags.update(set(picture.tags))
        oldest = picture.taken if oldest is None else min(oldest, picture.taken)
        newest = picture.taken if newest is None else max(newest, picture.taken)
    return Summary(_with_parents(direct), tags.most_common(_MOST), oldest, newest)


def _with_parents(direct: Counter[str]) -> list[tuple[str, int]]:
    """Of each folder the pictures in it and below; but for those above all of them."""
    total: Counter[str] = Counter()
    for folder, count in direct.items():
        parts = folder.split("/")
        for depth in range(2, len(parts) + 1):
            total["/".join(parts[:depth])] += count
    whole = sum(direct.values())
    named = [
        (folder, count)
        for folder, count in total.most_common()
        # a folder above all pictures, with none of its own, filters nothing
        if count < whole or folder in direct
    ]
    return named[:_MOST]
