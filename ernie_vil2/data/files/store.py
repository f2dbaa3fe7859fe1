"""Files of a store, through fsspec: what there is, and how it comes to this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ernie_vil2.data.files.retry import Retry, Stopped, StoreError, insist
from ernie_vil2.data.files.systems import system
from ernie_vil2.errors import UserError

_ASKING = 16  # requests at a time
_FEW = 3  # files of a folder that are asked for one by one instead of by a listing
# what a store says of a file that changes when its content does, the surest first
_VERSIONS = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "md5", "generation", "checksum"),
    *("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
)


class Remote(NamedTuple):
    """A file of a store; another version has another content, "" where the store says nothing."""

    url: str
    size: int
    version: str


def describe(urls: Sequence[str], retry: Retry) -> list[Remote]:
    """Size and version of each file, from one listing a folder where the store has listings.

    Raises:
        StoreError: a file is not there, or the store does not answer.
    """
    folders: dict[str, list[str]] = {}
    for url in urls:
        folders.setdefault(url.rpartition("/")[0], []).append(url)
    listed = [f for f, inside in folders.items() if len(inside) > _FEW and f[:4] != "http"]
    found: dict[str, Remote] = {}
    with ThreadPoolExecutor(_ASKING) as pool:
        for some in pool.map(lambda folder: _listed(folder, folders[folder], retry), listed):
            found.update(some)
        rest = [url for url in dict.fromkeys(urls) if url not in found]
        found.update(zip(rest, pool.map(lambda url: described(url, retry), rest)))
    return [found[url] for url in urls]


def described(url: str, retry: Retry) -> Remote:
    """Size and version of one file. Raises StoreError."""
    files, path = system(url)
    return _remote(url, insist(lambda: files.info(path), url, retry))


def listing(folder: str, retry: Retry) -> list[Mapping[str, Any]]:
    """What fsspec says of each file in a folder. Raises StoreError."""
    files, path = system(folder)
    return list(insist(lambda: files.ls(path, detail=True), folder, retry))


def _listed(folder: str, urls: Iterable[str], retry: Retry) -> dict[str, Remote]:
    try:
        entries = {entry["name"]: entry for entry in listing(folder, retry)}
    except StoreError as error:
        if error.final:  # one may be allowed to read and not to list
            return {}
        raise
    paths = {url: system(url)[1] for url in urls}
    return {url: _remote(url, entries[path]) for url, path in paths.items() if path in entries}


def _remote(url: str, facts: Mapping[str, Any]) -> Remote:
    if facts.get("type", "file") != "file":
        raise StoreError(f"{url} is a folder: name its files, or end it with /")
    if facts.get("size") is None:
        raise StoreError(f"{url}: the store does not say how large it is, so it cannot be read")
    version = next((str(facts[key]) for key in _VERSIONS if facts.get(key)), "")
    if version.startswith("W/"):  # a weak one may differ from server to server
        version = ""
    return Remote(url, int(facts["size"]), version)


def fetch(remote: Remote, path: str, retry: Retry, stopped: threading.Event) -> None:
    """Write a file of a store to `path`; `stopped`, when set, ends it by Stopped.

    Raises:
        StoreError: it could not be had whole, or is another version than it was.
        OSError: this machine's disk is what fails.
    """
    from fsspec.callbacks import Callback

    class Watch(Callback):
        def relative_update(self, inc: int = 1) -> None:
            if stopped.is_set():
                raise Stopped(remote.url)

    files, name = system(remote.url)

    def attempt() -> None:
        now = _remote(remote.url, files.info(name))
        if now != remote:
            raise StoreError(
                f"{remote.url} has changed since it was listed: {now.size} bytes of version "
                f"{now.version or '?'}, were {remote.size} of {remote.version or '?'}; start again"
            )
        files.get_file(name, path, callback=Watch())
        size = os.path.getsize(path)
        if size != remote.size:
            raise OSError(f"{size} bytes came of {remote.size}")

    insist(attempt, remote.url, retry, stopped.wait)


def read_text(url: str, retry: Retry) -> str:
    """A small file of a store as text. Raises StoreError, or UserError where it is no UTF-8."""
    files, path = system(url)
    data: bytes = insist(lambda: files.cat_file(path), url, retry)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{url} is no text in UTF-8: {error.reason}") from error
