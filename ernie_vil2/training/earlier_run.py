"""What an earlier run left in output_dir, moved aside when a new one starts there."""

from __future__ import annotations

from pathlib import Path

from ernie_vil2.checkpoints import store

_CHECKPOINTS = "checkpoints"
# to which a run appends; train.log, which says when each began, may tell of several
_LEDGERS = ("faults.jsonl", "bad_records.jsonl")
_RECORDS = ("metrics.jsonl", "vdl", "tensorboard", "wandb_id", *_LEDGERS)


def put_aside(output: Path) -> list[Path]:
    """Give checkpoints, metrics, curves and ledgers of an earlier run the names `NAME.1` and so on.

    All get the same number, which none of them has yet. Returns the new names, none where there was
    nothing.
    """
    number = 1
    while any((output / f"{name}.{number}").exists() for name in (_CHECKPOINTS, *_RECORDS)):
        number += 1
    aside = [store.put_aside(output / _CHECKPOINTS, number=number)]
    for path in (output / name for name in _RECORDS):
        if _holds_something(path):
            aside.append(path.rename(path.with_name(f"{path.name}.{number}")))
    return [path for path in aside if path]


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0
