"""Files that are written whole or not at all, are on the disk, and tell when they are damaged."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_vil2.errors import UserError


def sha256(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sealed(content: Mapping) -> str:
    """JSON with a checksum of itself, for `read_json`; arrays become lists."""
    plain = json.loads(json.dumps(content, default=lambda array: array.tolist()))
    return json.dumps({**plain, "checksum": _checksum(plain)}, indent=1) + "\n"


def read_json(path: Path, sealed: bool = False) -> dict:
    """The dict in a JSON file; its checksum has to be right and, if `sealed`, has to be there.

    Raises:
        OSError: no such file, or the disk refuses.
        ValueError: it is damaged.
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


# -- Whole or not at all ---------------------------------------------------------------------------


def replace_text(path: Path, text: str) -> None:
    """Put a text in place of a file's, whole or not at all."""
    with replaced(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replaced(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A path to write a file to, which takes `path`'s place when the block ends well.

    Whatever fails, `path` stays as it was, and no draft is left. An OSError names `path`, also
    where the system names none, as it does not for a full disk.

    Args:
        draft: the path to write to, on the same disk; the default is `path`'s name after a dot,
            which is for one writer at a time.
    """
    draft = draft or path.with_name(f".{path.name}")
    try:
        with naming(path, draft):
            yield draft
            sync(draft)
            os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Inside, an OSError that names no path, or the draft, gets this path."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(draft):
            error.filename = os.fspath(path)
        raise


def check_room(folder: Path) -> None:
    """Write a MiB to `folder` and delete it, so that a run finds out now and not in an hour.

    Raises:
        OSError: it cannot be written.
    """
    draft = folder / ".room"
    try:
        draft.write_bytes(b"\0" * (1 << 20))
        sync(draft)
    except OSError as error:
        error.filename = os.fspath(folder)
        raise
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(file: int, data: bytes) -> None:
    """Add to the end of a file that is open with O_APPEND, all or nothing.

    A disk that is nearly full takes a part, after which the file's next lines could not be read.

    Raises:
        OSError: not all of it could be written.
    """
    size = os.fstat(file).st_size
    if os.write(file, data) < len(data):
        os.ftruncate(file, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- Where a user wants it -------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """`replaced` for a place that a user names.

    Folders above are made; a link stays a link, and what it leads to is replaced. Several may write
    there at once: the last one stays.

    Raises:
        UserError: the disk refuses.
    """
    with _beside(target) as (target, draft), replaced(target, draft):
        yield draft


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write files to, which takes `target`'s place when the block ends well.

    As `replacing`; files that only the old folder has stay there.
    """
    with _beside(target) as (target, draft):
        draft.mkdir()
        yield draft
        new = [path.name for path in draft.iterdir()]
        for path in (*draft.iterdir(), draft):
            sync(path)
        old = [path.name for path in target.iterdir()] if target.exists() else []
        if not old:
            os.rename(draft, target)
        elif set(old) <= set(new):
            exchange(draft, target)
        else:
            for name in new:
                os.replace(draft / name, target / name)
            sync(target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, Path]]:
    """Where `target` really is, and a name beside it that nothing has; gone when the block ends."""
    target = target.resolve()
    draft = target.with_name(f".draft-{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target, draft
        sync(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason = "a folder above it is a file"
        raise UserError(
            f"{target} cannot be written ({reason}): name another place, or make room there"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def exchange(one: Path, other: Path) -> None:
    """Let two paths swap what they name, from one moment to the next where the system can."""
    if not exchange_at_once(one, other):
        aside = one.with_name(f"{one.name}.aside")
        os.rename(other, aside)
        os.rename(one, other)
        os.rename(aside, one)


def exchange_at_once(one: Path, other: Path) -> bool:
    """Let two paths swap what they name in one step; False where the system cannot."""
    at_cwd, swap = -100, 2  # AT_FDCWD of <fcntl.h>, RENAME_EXCHANGE of <linux/fs.h>
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = [os.fsencode(os.path.abspath(path)) for path in (one, other)]
    if libc.renameat2(at_cwd, names[0], at_cwd, names[1], ctypes.c_uint(swap)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
