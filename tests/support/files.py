"""What a folder holds."""

from pathlib import Path


def contents(folder: Path, *hidden: str) -> dict[str, bytes]:
    """Path within `folder` -> bytes of each file, but for those below `hidden`."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in hidden
    }
