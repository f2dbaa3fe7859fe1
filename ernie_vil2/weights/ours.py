"""A folder of ours that no run wrote: the weights, their `Arch`, and checksums."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_vil2.checkpoints.layout import BASE, MANIFEST, manifest, manifest_entry
from ernie_vil2.config.load import Config, check_arch
from ernie_vil2.files.durable import replacing_folder, sealed
from ernie_vil2.files.safetensors import write_safetensors
from ernie_vil2.models.dual_encoder import DualEncoder

OURS = "model.safetensors"


def save_checkpoint(
    model: DualEncoder,
    folder: str | os.PathLike,
    vocab_file: str | os.PathLike | None = None,
    transform: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that `load` reads: `model.safetensors` and `config.yaml` with its `Arch`.

    A manifest of their checksums lies beside them, as in a run's checkpoint. Of a model with
    adapters what stays below them is left out, and base.json says what it is.

    Args:
        vocab_file: the tokenizer's, copied to vocab.txt.
        transform: how pictures are to be prepared, as `{"eval": "clip"}`, with `mean` and `std`
            where those are others; evaluation and export go by it.
        tokenizer: what belongs into `Tokenizer` beside the vocabulary; with it, be it empty,
            config.yaml stands on base.yaml and can be given to commands.

    Raises:
        UserError: a folder that cannot be written.
    """
    with replacing_folder(Path(folder)) as draft:
        state, base = model.state_dict(), model.base
        if base:
            state = {name: tensor for name, tensor in state.items() if name not in base.names}
            (draft / BASE).write_text(sealed(base.note()), encoding="utf-8")
        write_safetensors(draft / OURS, state)
        content: dict[str, Any] = {} if tokenizer is None else {"_BASE_": "base.yaml"}
        content["Arch"] = check_arch({"Arch": model.arch})
        if tokenizer is not None:
            transform = {"size": model.image_tower.img_size, **(transform or {})}
        if tokenizer:
            own = {} if vocab_file is None else {"vocab_file": str(Path(folder) / "vocab.txt")}
            content["Tokenizer"] = Config({**tokenizer, **own})
        if transform:
            content["Transform"] = Config(transform)
        Config(content).dump(draft / "config.yaml")
        if vocab_file is not None:
            shutil.copyfile(vocab_file, draft / "vocab.txt")
        entries = {path.name: manifest_entry(path) for path in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(manifest(entries), encoding="utf-8")
