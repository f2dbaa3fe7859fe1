"""What of a folder is left out: hidden things, what programs put there, and patterns of the user's.

Patterns are those of `.gitignore` in its simple cases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ernie_vil2.errors import UserError

# Folders that programs make beside pictures, with small copies, with what was deleted, or of their
# own; names that begin with a dot (.thumbnails, .git, .Trash-1000) are left out as hidden.
SKIPPED = frozenset(
    {
        "@eaDir",  # Synology: thumbnails
        "@tmp",
        "@Recycle",  # QNAP
        "@Recently-Snapshot",
        "#recycle",  # Synology
        "#snapshot",
        "$RECYCLE.BIN",  # Windows
        "RECYCLER",
        "System Volume Information",
        "__MACOSX",  # archives made on a Mac: resource forks under pictures' names
        "iPod Photo Cache",
        "lost+found",
    }
)


class Patterns:
    r"""Globs as `.gitignore` has them, on paths relative to a folder.

    A pattern without "/" fits a name at any depth (`*.gif`, `screenshots`), one with "/" the path
    from the folder on (`2019/raw`, `/drafts`), one that ends with "/" only folders; what is below a
    folder that fits is left out with it. `*` and `?` do not match "/", `**` does, `[a-z]` and
    `[!a-z]` are one of a set, and `\` takes what follows as it is. "!" at the beginning, which
    takes back, is refused.

    Raises:
        UserError: an empty pattern, or one that begins with "!".
    """

    def __init__(self, globs: Sequence[str] = ()):
        self._names: list[tuple[re.Pattern[str], bool]] = []  # with: folders alone
        self._paths: list[tuple[re.Pattern[str], bool]] = []
        for glob in globs:
            if glob.startswith("!"):
                raise UserError(
                    f"--exclude {glob}: a pattern that takes back others is not known; name what "
                    "to leave out more narrowly"
                )
            if not glob.strip("/"):
                raise UserError(f"--exclude {glob!r} names nothing: expected a pattern like *.gif")
            only_folders, body = glob.endswith("/"), glob.rstrip("/")
            found = (re.compile(_expression(body.lstrip("/")), re.DOTALL), only_folders)
            (self._paths if "/" in body else self._names).append(found)

    def fit(self, path: str, is_folder: bool) -> bool:
        """Whether what lies at `path`, relative to the folder, is left out."""
        name = path.rpartition("/")[2]
        return any(
            (is_folder or not only_folders) and expression.fullmatch(text)
            for text, patterns in ((name, self._names), (path, self._paths))
            for expression, only_folders in patterns
        )


def _expression(glob: str) -> str:
    """A glob as a regular expression."""
    parts, place = [], 0
    while place < len(glob):
        rest, char = glob[place:], glob[place]
        bracket = re.match(r"\[(!?)(\]?[^\]]*)\]", rest)
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            place += 3
        elif rest.startswith("**"):
            parts.append(".*")
            place += 2
        elif bracket:
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", bracket[2])
            parts.append(f"[{'^/' if bracket[1] else ''}{members}]")
            place += bracket.end()
        elif char == "\\" and len(rest) > 1:
            parts.append(re.escape(rest[1]))
            place += 2
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)))
            place += 1
    return "".join(parts)
