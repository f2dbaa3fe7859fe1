"""From what a user writes to the files that it names, of this machine or of a store."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ernie_vil2.data.files import store
from ernie_vil2.data.files.retry import Retry, insist
from ernie_vil2.data.files.systems import is_url, system
from ernie_vil2.errors import UserError

_MOST = 1_000_000  # names of a range
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find(what: Any, suffix: str = ".tar", retry: Retry | None = None) -> list[str]:
    """Paths and URLs of files: of a pattern or a folder sorted, of a list in its order.

    Args:
        what: one of these, or a list of them: the name of a file; a pattern with `*`, `?`, `[ab]`,
            `{a,b}` or `{000..123}`, where zeros in front count; a folder, for the files in it that
            end with `suffix`; a list file, whose name ends with `.txt` or stands after `@`: a name
            or a pattern a line, relative to the list's folder, and comments after `#`.

    Raises:
        UserError: a file is missing, nothing was found, or a pattern is wrong. That a file of a
            store is missing is found out later, unless it was named by a pattern or a folder.
    """
    return list(_found(what, suffix, retry or Retry()))


def _found(what: Any, suffix: str, retry: Retry) -> Iterator[str]:
    if isinstance(what, Sequence) and not isinstance(what, str):
        if not what:
            raise UserError("the list of data files is empty: name at least one")
        for item in what:
            yield from _found(item, suffix, retry)
    elif isinstance(what, str) and (what.startswith("@") or what.endswith(".txt")):
        for line in _lines(what[what.startswith("@") :], retry):
            yield from _of_one(line, suffix, retry)
    else:
        yield from _of_one(what, suffix, retry)


def _of_one(what: Any, suffix: str, retry: Retry) -> Iterator[str]:
    """The files of a name or pattern."""
    what = what[len("file://") :] if isinstance(what, str) and what.startswith("file://") else what
    if isinstance(what, str) and is_url(what):
        found = [name for url in braces(what) for name in _in_store(url, suffix, retry)]
        yield from sorted(found)
    elif isinstance(what, (str, os.PathLike)) and os.path.isdir(what):
        pattern = os.path.join(glob.escape(os.fspath(what)), f"*{suffix}")
        found = glob.glob(pattern)
        if not found:
            raise UserError(f"folder {what} has no file that ends with {suffix}")
        yield from sorted(found)
    else:
        yield from local(what)


def local(path: Any) -> list[str]:
    """The files of this machine that a path or a pattern names, in alphabetical order.

    Raises:
        UserError: there is none, or a file is missing.
    """
    if not isinstance(path, str) or os.path.exists(path):
        return [file(path)]
    if is_url(path):
        raise UserError(f"{path} is in a store, where shards alone are read: copy it to a disk")
    found: list[str] = []
    for name in braces(path):
        matches = glob.glob(name, recursive=True) if glob.has_magic(name) else [name]
        if not matches:
            raise UserError(f"no file matches {name}")
        found += map(file, matches)
    return sorted(found)


def file(path: Any) -> str:
    """The path of a file that is there."""
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"{path!r} is no path of a data file")
    path = os.fspath(path)
    if os.path.isfile(path):
        return path
    if os.path.exists(path):
        raise UserError(f"{path} is no file: name the data file itself")
    raise UserError(f"data file {path} does not exist: tools/prepare_data.py makes the demo set")


# -- Braces ----------------------------------------------------------------------------------------


def braces(pattern: str) -> list[str]:
    """`pattern` once for each alternative in its braces, as a shell writes it out.

    `{a,b}` stands for a and b, `{08..11}` for 08, 09, 10, 11; braces may stand within braces.

    Raises:
        UserError: a brace is not closed or not opened, or holds neither.
    """
    start = pattern.find("{")
    if "}" in pattern[: start if start >= 0 else None]:
        raise UserError(f"{pattern} closes a brace that it does not open")
    if start < 0:
        return [pattern]
    cuts, depth = [start], 0
    for place in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0:
            break
        if depth == 1 and pattern[place] == ",":
            cuts.append(place)
    else:
        raise UserError(f"{pattern} opens a brace that it does not close")
    cuts.append(place)
    parts = [pattern[a + 1 : b] for a, b in zip(cuts, cuts[1:])]
    inner = [name for part in parts for name in braces(part)]
    if len(parts) == 1:
        inner = _range(pattern, parts[0])
    rests = braces(pattern[place + 1 :])
    return [pattern[:start] + name + rest for name in inner for rest in rests]


def _range(pattern: str, text: str) -> list[str]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise UserError(
            f"{pattern}: {{{text}}} is neither a range such as {{000..123}} nor alternatives such "
            "as {a,b}"
        )
    first, last = match.groups()
    if not 0 <= int(last) - int(first) < _MOST:
        raise UserError(f"{pattern}: {{{text}}} is no range of 1 to {_MOST} numbers")
    padded = any(end[0] == "0" and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


# -- List files and stores -------------------------------------------------------------------------


def _lines(name: str, retry: Retry) -> list[str]:
    """The names in a list file, from its folder where they are relative."""
    if is_url(name):
        text, folder = store.read_text(name, retry), name.rpartition("/")[0]
    else:
        folder = os.path.dirname(file(name))
        try:
            with open(name, encoding="utf-8-sig") as lines:
                text = lines.read()
        except UnicodeDecodeError as error:
            raise UserError(f"{name} is no text in UTF-8: {error.reason}") from error
    named = [line.strip() for line in text.splitlines()]
    named = [line for line in named if line and not line.startswith("#")]
    if not named:
        raise UserError(f"{name} names no file: expected a name in each line")
    if is_url(name):
        return [line if is_url(line) else f"{folder}/{line}" for line in named]
    return [line if is_url(line) else os.path.join(folder, line) for line in named]


def _in_store(url: str, suffix: str, retry: Retry) -> list[str]:
    """The URLs that a URL, a pattern or a folder of a store names."""
    if not _has_magic(url) and not url.endswith("/"):
        return [url]
    files, path = system(url)
    if _has_magic(url):
        names = insist(lambda: files.glob(path), url, retry)
        told = f"no file matches {url}"
    else:
        entries = store.listing(url, retry)
        names = [entry["name"] for entry in entries if entry["name"].endswith(suffix)]
        told = f"folder {url} has no file that ends with {suffix}"
    if not names:
        raise UserError(told)
    head, found, _ = url.rpartition(path.rstrip("/"))
    prefix = head if found else url.partition("://")[0] + "://"
    return [name if "://" in name else prefix + name for name in names]


def _has_magic(url: str) -> bool:
    """Whether a URL is a pattern; in HTTP's, `?` begins a query."""
    return "*" in url if url.startswith("http") else glob.has_magic(url)
