"""fsspec's file systems, one of each kind for a process.

fsspec's event loop runs in a thread, which a fork does not copy, and two processes cannot speak
over one connection: a forked process begins with none.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

from ernie_vil2.errors import UserError

_SILENCE = 60.0  # seconds without a byte, after which an HTTP server counts as gone

_systems: dict[tuple[str, str], Any] = {}
_parents: list[dict[tuple[str, str], Any]] = []
_making = threading.Lock()


def _after_fork() -> None:
    """Begin anew in a forked process."""
    global _making
    _making = threading.Lock()
    _parents.append(dict(_systems))  # kept: to delete them would close the parent's connections
    _systems.clear()
    if "fsspec.asyn" in sys.modules:
        sys.modules["fsspec.asyn"].reset_lock()


os.register_at_fork(after_in_child=_after_fork)


def is_url(name: str) -> bool:
    """Whether a name is of a store and not of this machine's disk."""
    return "://" in name and not name.startswith("file://")


def system(url: str) -> tuple[Any, str]:
    """This process's fsspec file system for a URL, and the URL's path in it.

    Raises:
        UserError: there is no such kind of store, or a package is missing.
    """
    parts = urlsplit(url)
    kind = (parts.scheme, "" if parts.scheme.startswith("http") else parts.netloc)
    with _making:
        if kind not in _systems:
            _systems[kind] = _made(url, parts.scheme)
        found = _systems[kind]
    return found, found._strip_protocol(url)


def _made(url: str, scheme: str) -> Any:
    try:
        from fsspec import get_filesystem_class

        kind = get_filesystem_class(scheme)
        options = {**kind._get_kwargs_from_urls(url), **_patience(scheme)}
        return kind(skip_instance_cache=True, use_listings_cache=False, **options)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f'{url} needs a package that is missing ({reason}): pip install "ernie_vil2[data]"'
        ) from error
    except ValueError as error:
        raise UserError(f"{url}: {error}: expected s3://, gs://, hdfs://, https:// ...") from error


def _patience(scheme: str) -> dict[str, Any]:
    """Options by which `retry.py` alone decides how often to ask; fsspec's configuration wins."""
    from fsspec.config import conf

    if scheme in ("http", "https"):
        import aiohttp

        # fsspec's own bound is 5 minutes for a whole file, however large
        times = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE)
        theirs = {**conf.get("http", {}), **conf.get(scheme, {})}
        return {"client_kwargs": {"timeout": times, **theirs.get("client_kwargs", {})}}
    if scheme in ("s3", "s3a"):
        theirs = {**conf.get("s3", {}), **conf.get(scheme, {})}
        once = {"mode": "standard", "total_max_attempts": 1}
        return {"config_kwargs": {"retries": once, **theirs.get("config_kwargs", {})}}
    return {}
