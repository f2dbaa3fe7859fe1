"""What the operating system refuses, said in one line: the path, the reason, the remedy."""

from __future__ import annotations

import errno
import os

ROOM = "free space there, or name a place on another disk"
PLACE = "name another place"
# errno -> remedy, of what the user can mend
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "lift the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit on open files (fs.file-max)",
    errno.ENOENT: "name what is there",
    errno.ENOTDIR: f"a part of this path is a file, no folder: {PLACE}, or move the file",
    errno.EISDIR: f"it is a folder, and a file is needed: {PLACE}",
    errno.EEXIST: f"something else has this name: {PLACE}, or move it",
    errno.ENOTEMPTY: f"it is a folder with something in it: {PLACE}, or move it",
    errno.EACCES: f"see to its rights (ls -ld), or {PLACE}",
    errno.EPERM: f"see to its rights (ls -ld, lsattr -d), or {PLACE}",
    errno.EROFS: f"its disk may only be read: {PLACE}",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: f"its links lead in a circle: mend them, or {PLACE}",
}
# said also where the system names no path, as it does not for what is written to an open file
_WITHOUT_PATH = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO)


def explain(error: OSError) -> tuple[str, int] | None:
    """What to tell the user of an error.

    Returns:
        One line, and an exit code: 2 where the user can mend it, else 1. None for an error that is
        not about files, which should keep its traceback.
    """
    path = _path(error)
    if not error.strerror or isinstance(error, (ConnectionError, TimeoutError)):
        return None
    if path is None and error.errno not in _WITHOUT_PATH:
        return None
    remedy = _REMEDIES.get(error.errno, "check the disk, then try again")
    line = f"{path or 'what was to be written'}: {error.strerror}; {remedy}"
    return " ".join(line.split()), 2 if error.errno in _REMEDIES else 1


def _path(error: OSError) -> str | None:
    """What the error is about; of two names, as a renaming has, the one to be made."""
    names = (error.filename2, error.filename)
    return next((os.fsdecode(n) for n in names if isinstance(n, (str, bytes, os.PathLike))), None)
