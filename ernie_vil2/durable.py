"""Files that are on the disk when they seem to be, and tell when they are damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sealed(content: Mapping) -> str:
    """JSON with a checksum of itself, for `read_json`."""
    plain = json.loads(json.dumps(content, default=lambda array: array.tolist()))
    return json.dumps({**plain, "checksum": _checksum(plain)}, indent=1) + "\n"


def read_json(path: Path, sealed: bool = False) -> dict:
    """The dict in a JSON file; its checksum has to be right and, if `sealed`, has to be there.

    Raises OSError, and ValueError for what is damaged.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or (sealed and "checksum" not in content):
        raise ValueError("it does not hold what was written")
    plain = {name: value for name, value in content.items() if name != "checksum"}
    if content.get("checksum", _checksum(plain)) != _checksum(plain):
        raise ValueError("it does not match its checksum")
    return content


def _checksum(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Put a text in place of a file's, whole or not at all."""
    with replaced(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Inside, a draft beside `path` is to be written; then it takes the file's place.

    Whatever fails, `path` stays as it was, and no draft is left. An OSError names `path`, also
    where the system names none, as it does not for a full disk.
    """
    draft = path.with_name(f".{path.name}")
    try:
        with naming(path):
            yield draft
            sync(draft)
            os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets an OSError that names no path name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def check_room(folder: Path) -> None:
    """Raise OSError unless a MiB can be written to `folder`: better now than in an hour."""
    with replaced(folder / ".room") as draft:
        draft.write_bytes(b"\0" * (1 << 20))
    (folder / ".room").unlink()


def sync(path: Path) -> None:
    """Have a file's or folder's content on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(file: int, data: bytes) -> None:
    """Add to the end of a file that is open with O_APPEND, all or nothing. Raises OSError.

    A disk that is nearly full takes a part, after which the file's next lines could not be read.
    """
    size = os.fstat(file).st_size
    if os.write(file, data) < len(data):
        os.ftruncate(file, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
