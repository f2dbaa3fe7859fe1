"""Whether a checkpoint is whole, and every byte of it right."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from ernie_vil2.checkpoints.layout import (
    MANIFEST,
    SHARD,
    STATE,
    WEIGHTS,
    read_manifest,
    shard_name,
    training_files,
)
from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import read_json, sha256
from ernie_vil2.files.safetensors import LazyTensors


def verify(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint, a line each; empty: it is whole, and every byte is right.

    Those of this project's first version have no manifest; of them the files' headers are checked.
    An answer is remembered until a file's size or time changes.
    """
    checkpoint = checkpoint.resolve()
    try:
        files = [(path.name, path.stat()) for path in checkpoint.iterdir()]
    except OSError as error:
        return [f"it cannot be read: {error.strerror}"]
    stamp = tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in files))
    return list(_verified(checkpoint, stamp))


@functools.lru_cache(maxsize=256)
def _verified(checkpoint: Path, stamp: tuple) -> tuple[str, ...]:
    return tuple(problems_of(checkpoint, checksums=True))


def problems_of(checkpoint: Path, checksums: bool) -> list[str]:
    """`verify`, anew; without `checksums` only what costs no reading of the large files."""
    problems = _shard_problems({path.name for path in training_files(checkpoint)})
    with_manifest, state = (checkpoint / MANIFEST).exists(), {}
    try:
        state = read_json(checkpoint / STATE, sealed=with_manifest)
        if not isinstance(state.get("step"), int):
            problems.append(f"{STATE} names no step")
    except (OSError, ValueError) as error:
        problems.append(reason(STATE, error))
    if not with_manifest and "checksum" not in state:
        return problems + _problems_without_manifest(checkpoint)
    try:
        files = read_manifest(checkpoint)
    except (OSError, ValueError) as error:
        return [*problems, reason(MANIFEST, error)]
    problems += _file_problems(checkpoint, files, checksums)
    foreign = {path.name for path in training_files(checkpoint)} - set(files)
    return problems + [f"{name} belongs to another checkpoint" for name in sorted(foreign)]


def weights_problems(source: Path) -> list[str]:
    """What is wrong with weights, a folder or a file in one, as far as a manifest tells."""
    folder = source if source.is_dir() else source.parent
    if not (folder / MANIFEST).exists():
        return []
    try:
        files = read_manifest(folder)
    except (OSError, ValueError) as error:
        return [reason(MANIFEST, error)]
    wanted = WEIGHTS if source.is_dir() else {source.name}
    return _file_problems(folder, {n: files[n] for n in files if n in wanted}, checksums=True)


def _file_problems(checkpoint: Path, files: Mapping, checksums: bool) -> list[str]:
    """What is wrong with those files of a manifest."""
    problems = []
    for name, entry in files.items():
        try:
            size = (checkpoint / name).stat().st_size
            if size != entry["size"]:
                problems.append(f"{name} has {size} bytes, expected {entry['size']}")
            elif checksums and sha256(checkpoint / name) != entry["sha256"]:
                problems.append(f"{name} does not match its checksum")
        except OSError as error:
            problems.append(reason(name, error))
    return problems


def _problems_without_manifest(checkpoint: Path) -> list[str]:
    problems = []
    for name in ("config.yaml", "vocab.txt"):
        try:
            if not (checkpoint / name).stat().st_size:
                problems.append(f"{name} is empty")
        except OSError as error:
            problems.append(reason(name, error))
    for path in (checkpoint / "model.safetensors", *training_files(checkpoint)):
        try:
            LazyTensors([path])  # compares what the header promises with the file's size
        except UserError as error:
            problems.append(str(error))
    return problems


def _shard_problems(names: set[str]) -> list[str]:
    if names == {"training.safetensors"}:
        return []
    worlds = {int(match[2]) for match in map(SHARD.match, names) if match}
    if len(worlds) != 1:
        found = " and ".join(sorted(names)[:: max(1, len(names) - 1)])
        return [f"{found} are of different runs" if names else "training.safetensors is missing"]
    world_size = worlds.pop()
    expected = {shard_name(rank, world_size) for rank in range(world_size)}
    return [f"{name} is missing" for name in sorted(expected - names)] + [
        f"{name} belongs to another checkpoint" for name in sorted(names - expected)
    ]


def reason(name: str, error: Exception) -> str:
    """What is wrong with a file whose reading raised this."""
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    if isinstance(error, OSError):
        return f"{name} cannot be read: {error.strerror}"
    return f"{name} is damaged: {error}"


def brief(problems: list[str]) -> str:
    """The first problem, and how many more there are."""
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"
