"""What a run's checkpoints are called, and what lies in one.

checkpoints/step_00001000/
    model.safetensors     the weights to use, by structured name, float32; averaged where EMA is on
    training.safetensors  "<parameter>|<accumulator>" of the optimizer, the loss's own parameters,
                          and, where EMA is on, the weights as they were trained; in a sharded run
                          training-00001-of-00004.safetensors ... instead, one a process
    config.yaml           resolved
    vocab.txt             a copy of the tokenizer's
    base.json             in a run that trains adapters: the weights that stay, which are not in
                          model.safetensors, and their SHA-256
    state.json            step, best metric, loss scaler ...; it carries its own checksum, because
                          an evaluation amends it
    manifest.json         size and SHA-256 of all files above but state.json
checkpoints/latest, best  links to such a folder
checkpoints/.writing-*, .deleting-*  not there yet, not there any more

A step that is written again, as after going back to an older checkpoint, becomes step_00001000.2
and takes the place of the first only then: at no moment is there none. `writer` writes all this,
`training_state` says what the tensors are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ernie_vil2.files.durable import read_json, sealed, sha256

MANIFEST, STATE, BASE = "manifest.json", "state.json", "base.json"
WEIGHTS = ("model.safetensors", "config.yaml", "vocab.txt", BASE)  # what a model is made from
SHARD = re.compile(r"training-(\d{5})-of-(\d{5})\.safetensors$")
_STEP = re.compile(r"step_(\d{8})(?:\.(\d+))?$")


# -- Folders ---------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder` by step, oldest first; they may be damaged."""
    return sorted((p for p in folder.glob("step_*") if _STEP.match(p.name)), key=order)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name tells."""
    return order(checkpoint)[0]


def of_step(folder: Path, step: int) -> Path | None:
    """The checkpoint of `step`, the newer of two, or None."""
    same = [path for path in checkpoints(folder) if step_of(path) == step]
    return same[-1] if same else None


def order(checkpoint: Path) -> tuple[int, int]:
    """What checkpoints are sorted by: the step, and which writing of it this is, from 1."""
    match = _STEP.match(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1]), int(match[2] or 1)


# -- Files -----------------------------------------------------------------------------------------


def training_files(checkpoint: Path) -> list[Path]:
    """The files of the optimizer's state: one, or one a process that wrote it."""
    return sorted(checkpoint.glob("training*.safetensors"))


def shard_name(rank: int, world_size: int) -> str:
    """The file of what `rank` owns."""
    return f"training-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def manifest_entry(path: Path, digest: str | None = None) -> dict:
    """What a manifest says of a file: its size and its SHA-256, `digest` where that is known."""
    return {"size": path.stat().st_size, "sha256": digest or sha256(path)}


def manifest(entries: Mapping[str, dict]) -> str:
    """The content of a manifest: file name -> `manifest_entry`."""
    return sealed({"files": entries})


def read_manifest(folder: Path) -> dict[str, dict]:
    """File name -> `manifest_entry`, as they were written.

    Raises:
        OSError: no manifest, or one that cannot be read.
        ValueError: it is damaged.
    """
    return read_json(folder / MANIFEST, sealed=True)["files"]
