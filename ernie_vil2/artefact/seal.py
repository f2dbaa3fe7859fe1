"""Checksums of an exported model's files, for the exporter to write and all others to compare.

Golden vectors do not show every damage: a flipped bit in the weights may change them too little,
and one in the vocabulary changes nothing unless that token is in their texts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from ernie_vil2 import runtime
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable

T = TypeVar("T")


def files_below(folder: Path) -> set[str]:
    """The names of all files in a folder and its folders, relative to it, with `/`."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> SHA-256, for names relative to `folder`, in order; links to one file are read once.

    Several files at a time: hashing does not hold Python's lock.

    Raises:
        UserError: one that cannot be read.
    """
    same: dict[tuple[int, int], list[str]] = {}
    for name in sorted(names):
        status = _read(folder / name, os.stat)
        same.setdefault((status.st_dev, status.st_ino), []).append(name)
    with ThreadPoolExecutor(runtime.usable_cores(), "hash") as pool:
        firsts = [folder / group[0] for group in same.values()]
        digests = list(pool.map(partial(_read, how=durable.sha256), firsts))
    found = {name: digest for group, digest in zip(same.values(), digests) for name in group}
    return dict(sorted(found.items()))


def check_files(folder: Path, expected: Mapping[str, str], names: Iterable[str]) -> None:
    """Compare files with their SHA-256.

    Raises:
        UserError: missing, changed, or not in `expected`.
    """
    names = set(names)
    for name in sorted(names - set(expected)):
        raise UserError(f"{folder / name} is no part of what was exported: delete it")
    for name, digest in hash_files(folder, names).items():
        if digest != expected[name]:
            raise UserError(
                f"{folder / name} is damaged or was changed: its SHA-256 is not what the exporter "
                "wrote; export or copy the model again"
            )


def _read(path: Path, how: Callable[[Path], T]) -> T:
    try:
        return how(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: export or copy the model again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): copy the model again") from None
