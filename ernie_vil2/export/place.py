"""Where an export goes: made beside its place, and put there whole.

At every moment the place holds the old export or the new one, whoever is killed when; exports into
one place at once do not disturb each other, and the last one to end stays.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ernie_vil2.artefact.description import CLASSIFIER, DESCRIPTION, GOLDEN, SHAPES, VOCABULARY
from ernie_vil2.errors import UserError
from ernie_vil2.files import durable

_ALWAYS = {DESCRIPTION, VOCABULARY, GOLDEN, "fp32"}
_SERVING = {"serving_server", "serving_client"}
_OURS = _ALWAYS | _SERVING | {"int8", "onnx", "paddlenlp", SHAPES, CLASSIFIER}


def find(save_dir: str | os.PathLike) -> Path:
    """The real path of a folder that an export may be written to, or replace.

    Of a link it is what the link points to. What a killed export left beside it is cleared away.

    Raises:
        UserError: a place that is something else than an export.
    """
    try:
        target = Path(save_dir).resolve()
        check(target, save_dir)
        if target.parent.is_dir():
            with _locked(target.parent):
                _tidy(target)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a NUL; RuntimeError: links in a circle
        raise _unusable(save_dir, error) from None
    return target


def check(target: Path, name: str | os.PathLike) -> None:
    """Refuse a place that an export cannot replace.

    Args:
        target: the real path.
        name: what the user calls it.

    Raises:
        UserError: it holds something else.
        OSError: what it holds cannot be read.
    """
    here = Path.cwd()
    if target == here or target in here.parents:
        raise UserError(f"--save-dir {name} is the folder you are in, or above: name a new folder")
    if not target.exists():
        above = next(parent for parent in target.parents if parent.exists())
        if not above.is_dir():
            raise UserError(f"--save-dir {name}: {above} is a file; name a folder elsewhere")
        return
    if not target.is_dir():
        raise UserError(f"--save-dir {name} is a file, no folder: name a new folder")
    names = {path.name for path in target.iterdir()}
    if names and not _ALWAYS <= names <= _OURS:
        others = ", ".join(sorted(names - _OURS)[:3]) or "no whole export"
        raise UserError(f"--save-dir {name} holds other files ({others}): name a new folder")


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place if the body ends well, and is gone else.

    Raises:
        UserError: it cannot be made or put there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            folder = Path(tempfile.mkdtemp(".draft", f".{target.name}.", target.parent))
            hold = _hold(folder)  # tells other exports that we live
        folder.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _unusable(target, error) from None
    try:
        yield folder
        try:
            for path in [*folder.rglob("*"), folder]:
                durable.sync(path)
            with _locked(target.parent):
                check(target, target)  # a second time: an export takes minutes
                _put(folder, target)
                durable.sync(target.parent)
        except OSError as error:
            raise _unusable(target, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if hold is not None:
            os.close(hold)


def _put(folder: Path, target: Path) -> None:
    """Give `target`'s name to `folder`, and `folder`'s to what was there."""
    if not target.exists():
        folder.rename(target)
    elif not durable.exchange_at_once(folder, target):
        old = folder.with_suffix(".old")  # put back by `_tidy` after a kill in between
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _tidy(target: Path) -> None:
    """Put the old export back where a kill came before the new one, and clear drafts of the dead.

    What another export is at work on is left alone.
    """
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        between = path.stem[len(target.name) + 2 :]  # a dot in it: of a target with a longer name
        if path.suffix not in (".draft", ".old") or "." in between or not path.is_dir():
            continue
        if path.suffix == ".old" and not target.exists():
            path.rename(target)
            continue
        hold = _hold(path)
        if hold is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(hold)


def _hold(folder: Path) -> int | None:
    """A lock on a folder, held until the descriptor is closed; None: another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:  # or a file system without locks
        os.close(descriptor)
        return None


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """One export at a time looks and renames in a folder."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unusable(name: str | os.PathLike, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"--save-dir {str(name)[:200]} cannot be used ({reason}): name another folder")
