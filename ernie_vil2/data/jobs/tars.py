"""A shard as a WebDataset tar whose bytes depend on its records alone."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

from ernie_vil2.data.jobs.lines import json_line
from ernie_vil2.data.records import Record

_OURS = ("caption", "captions", "tags", "id", "source")  # of the JSON; other keys are texts


class ShardWriter:
    """Writes records, each as a picture and a JSON object of one key; use it with `with`."""

    def __init__(self, path: Path):
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.records = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tar.close()

    def add(self, key: str, record: Record, image: bytes, extension: str) -> None:
        """Add a record under `key`, with these bytes for its picture."""
        members = {
            f"{key}.{extension}": image,
            f"{key}.json": json_line(described(record)).encode(errors="backslashreplace"),
        }
        for name in sorted(members):
            member = tarfile.TarInfo(name)  # no time, no owner: both would change from run to run
            member.size = len(members[name])
            self._tar.addfile(member, io.BytesIO(members[name]))
        self.records += 1


def described(record: Record) -> dict[str, Any]:
    """What the JSON of a record holds."""
    captions = list(record.captions)
    return {
        **{key: texts for key, texts in record.texts.items() if key not in _OURS},
        **({"caption": captions[0]} if len(captions) == 1 else {"captions": captions}),
        "tags": list(record.tags),
        "id": record.id,
        "source": record.source,
    }
