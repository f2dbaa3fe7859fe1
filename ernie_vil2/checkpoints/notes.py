"""Notes by which the processes of a sharded run tell rank 0 what they have written.

They meet in the file system alone, since a thread that writes a checkpoint must not use
collectives while the training does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ernie_vil2.files.durable import read_json, replace_text, sealed


def leave_note(draft: Path, rank: int, content: Mapping) -> None:
    """Tell rank 0 of a file in the folder `draft`, its manifest entry, or {"error": reason}."""
    replace_text(draft / _name(rank), sealed(content))


def wait_for_notes(
    draft: Path, ranks: Iterable[int], time_limit: Callable[[], float]
) -> dict[int, dict]:
    """Rank -> manifest entry, as soon as all `ranks` have left their notes, which are deleted.

    Args:
        time_limit: seconds to wait at the most; asked again and again, since it may be lowered.

    Raises:
        OSError: a rank could not write its file, or left no note in time.
    """
    entries: dict[int, dict] = {}
    missing = set(ranks)
    begun, pause = time.monotonic(), 0.01
    while True:
        for rank in sorted(missing):
            note = draft / _name(rank)
            try:
                content = read_json(note, sealed=True)
            except FileNotFoundError:
                continue
            if "error" in content:
                raise OSError(f"rank {rank}: {content['error']}")
            entries[rank] = {key: content[key] for key in ("size", "sha256")}
            missing.discard(rank)
            note.unlink()
        if not missing:
            return entries
        limit = time_limit()
        if time.monotonic() - begun > limit:
            names = ", ".join(map(str, sorted(missing)))
            raise TimeoutError(
                f"nothing came from rank {names} within {limit:g} s: do all nodes "
                "share Global.output_dir?"
            )
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)


def _name(rank: int) -> str:
    return f".rank-{rank}.json"
