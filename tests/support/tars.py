"""Tar shards of a few members, written by Python's tarfile."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.support.rows import png


def write_tar(path: Path, *members, **options) -> str:
    """A tar of (name, content) pairs and of TarInfos; content that is no bytes becomes JSON."""
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def write_shards(folder: Path, records, lengths) -> str:
    """Shards of so many records each, with their own ids; returns the pattern of their names."""
    folder.mkdir()
    records = list(records)
    assert sum(lengths) == len(records)
    for shard, length in enumerate(lengths):
        members = []
        for number, record in enumerate(records[:length]):
            row = {"id": record.id, "captions": list(record.captions), "tags": list(record.tags)}
            members += [(f"{shard}-{number}.png", record.image), (f"{shard}-{number}.json", row)]
        write_tar(folder / f"{shard:03}.tar", *members)
        records = records[length:]
    return str(folder / "*.tar")


def pair(key: str, number: int = 0) -> list[tuple[str, bytes]]:
    """The members of a good record."""
    return [(f"{key}.png", png(number)), (f"{key}.txt", f"text {number}".encode())]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def header_at(path: str, name: str) -> int:
    """Where the header of a member begins."""
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def patch(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def lie(path: str, name: str, size: int) -> None:
    """Let a member say that it has `size` bytes, under a right checksum."""
    at = header_at(path, name)
    block = bytearray(Path(path).read_bytes()[at : at + 512])
    block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    patch(path, at, bytes(block))
