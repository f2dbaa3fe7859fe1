"""The demo's validation drawings as files with names and tags, for tools/index.py to find."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

FOLDER, TAGS = "pictures", "pictures.jsonl"
# What emojibase's numbers of groups stand for; flags, the last, are not in the set.
GROUPS = (
    *("smileys", "people", "components", "animals", "food"),
    *("travel", "activities", "objects", "symbols"),
)


def picture_files(
    drawings: Iterable[tuple[int, str, Sequence[str], bytes]],
) -> dict[str, bytes]:
    """Path -> content: FOLDER/<group>/<name>.webp of each drawing, and TAGS.

    TAGS has a line a picture, as `prepare_data.py tag` writes it, with the path below FOLDER as id.

    Args:
        drawings: group, name, tags and WebP file of each; names may repeat.
    """
    files: dict[str, bytes] = {}
    lines = []
    for group, name, tags, content in drawings:
        path = _free(files, f"{GROUPS[group]}/{name.replace('/', '-')}")
        files[f"{FOLDER}/{path}"] = content
        lines.append(json.dumps({"id": path, "tags": list(tags)}, ensure_ascii=False) + "\n")
    return {**files, TAGS: "".join(lines).encode()}


def _free(files: dict[str, bytes], stem: str) -> str:
    """`stem`, with a number where it is taken, and its suffix."""
    path, number = f"{stem}.webp", 2
    while f"{FOLDER}/{path}" in files:
        path, number = f"{stem} {number}.webp", number + 1
    return path
