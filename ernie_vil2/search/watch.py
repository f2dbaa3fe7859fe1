"""An index that follows its folders: they are looked at again and again.

By looking and not by the kernel's notices, which say nothing of what other machines change on a
network's file system, and of which a user may have too few for a large tree.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ernie_vil2.search.changes import FolderGone
from ernie_vil2.search.collection import Collection
from ernie_vil2.search.indexer import Indexer, Summary

log = logging.getLogger("ernie_vil2")

# Changed pictures, and seconds, after which the collection is put in order again.
_UNTIDY, _TIDY_EVERY = 1000, 600.0


def watch(
    indexer: Indexer, collection: Collection, interval: float, tell: Callable[[Summary], None]
) -> None:
    """Index what changes until a KeyboardInterrupt, after which all that was done is kept.

    A folder that is gone, or empty, may be a disk that comes back: it is waited for.

    Args:
        interval: seconds between two looks.
        tell: called with the first update, and with those that changed something.
    """
    untidy, tidied, waiting, first = 0, time.monotonic(), "", True
    try:
        while True:
            try:
                summary = indexer.update()
                waiting = ""
            except FolderGone as error:
                if str(error) != waiting:
                    log.warning("waiting: %s", error)
                waiting = str(error)
            else:
                untidy += summary.writes
                if first or summary.writes:
                    tell(summary)
                late = untidy and time.monotonic() - tidied > _TIDY_EVERY
                if first or untidy >= _UNTIDY or late:
                    collection.optimize()
                    untidy, tidied = 0, time.monotonic()
                first = False
            time.sleep(interval)
    except KeyboardInterrupt:
        return
