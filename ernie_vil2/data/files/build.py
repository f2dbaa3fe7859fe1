"""From what a configuration calls a set's files to the files, wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ernie_vil2.data.files.cache import Cache
from ernie_vil2.data.files.local import Files, LocalFiles
from ernie_vil2.data.files.names import find
from ernie_vil2.data.files.remote import RemoteFiles
from ernie_vil2.data.files.retry import Retry
from ernie_vil2.data.files.systems import is_url
from ernie_vil2.errors import UserError

_GB = 10**9


class StoreOptions(NamedTuple):
    """How files of stores are read; the section `DataLoader.store`.

    Attributes:
        cache_dir: None: ERNIE_VIL2_CACHE_DIR, else a folder in the user's cache.
        cache_gb: None: ERNIE_VIL2_CACHE_GB, else half of what the disk has free.
        attempts, seconds: see `Retry`.
    """

    cache_dir: str | None = None
    cache_gb: float | None = None
    attempts: int = Retry().attempts
    seconds: float = Retry().seconds


_options = StoreOptions()


def read_stores(section: Mapping[str, Any]) -> None:
    """Read files of stores as this section says, for the rest of the process."""
    global _options
    _options = StoreOptions(**section)


def open_files(path: Any, suffix: str = ".tar") -> Files:
    """The files that a name, a pattern, a folder or a list of these stands for: see `names.find`.

    Raises:
        UserError: there is none, or not all are of one kind; see `RemoteFiles` for those of stores.
    """
    retry = Retry(_options.attempts, _options.seconds)
    names = find(path, suffix, retry)
    urls = [name for name in names if is_url(name)]
    if not urls:
        return LocalFiles(names)
    if len(urls) < len(names):
        local = next(name for name in names if not is_url(name))
        raise UserError(
            f"{urls[0]} is in a store and {local} is not: name them as two sources of a mixture"
        )
    return RemoteFiles(urls, _cache(), retry)


def _cache() -> Cache:
    given = os.environ.get("ERNIE_VIL2_CACHE_GB")
    size = _options.cache_gb
    if size is None and given:
        try:
            size = float(given)
        except ValueError:
            size = -1.0
        if not size > 0:
            raise UserError(f"ERNIE_VIL2_CACHE_GB is {given}: expected a number above 0")
    folder = _options.cache_dir or os.environ.get("ERNIE_VIL2_CACHE_DIR")
    return Cache(folder, None if size is None else int(size * _GB))
