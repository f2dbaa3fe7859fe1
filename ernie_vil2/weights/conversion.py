"""Weights of one format written in another, and where they may be written to."""

from __future__ import annotations

import os
from pathlib import Path

from ernie_vil2 import runtime
from ernie_vil2.errors import UserError, did_you_mean

FORMATS = ("official", "paddlenlp", "ernie_vil2")
# What a conversion before may have left; a folder of these alone may be written over.
_WRITTEN = {
    "config.json",
    "config.yaml",
    "manifest.json",
    "model.safetensors",
    "model_state.pdparams",
    "vocab.txt",
}


def convert(
    source: str,
    to: str,
    out: str,
    config: str | None = None,
    partial: bool = False,
    force: bool = False,
) -> None:
    """Read weights of any format and write them in another, with the vocabulary beside them.

    Args:
        source: as `ernie_vil2.load` takes weights.
        to: one of `FORMATS`.
        out: a folder; for "official" the `.pdparams` file.
        config: a YAML file with `Arch`; needed for an official file, and for another img_size.
        partial: convert although keys are missing or do not fit.
        force: write into a run folder, over the source, or among other files.

    Raises:
        UserError: an unknown format, a place that is in use, weights that cannot be read or that
            the format cannot hold.
    """
    if to not in FORMATS:
        raise UserError(f'no format "{to}"{did_you_mean(to, FORMATS)}')
    check_out(out, to, source, force)
    runtime.prepare()  # before Paddle

    from ernie_vil2.weights.load import load
    from ernie_vil2.weights.official import save_official
    from ernie_vil2.weights.ours import save_checkpoint
    from ernie_vil2.weights.paddlenlp import save_paddlenlp
    from ernie_vil2.weights.preprocessing import own_preprocessing
    from ernie_vil2.weights.vocabulary import own_vocabulary

    model = load(source, config, partial)
    if to == "official":
        save_official(model, out)
        return
    vocab_file = own_vocabulary(source).get("vocab_file")
    if to == "paddlenlp":
        save_paddlenlp(model, out, vocab_file, force)
    else:
        save_checkpoint(model, out, vocab_file, own_preprocessing(source))


def check_out(out: str, to: str, source: str, force: bool) -> None:
    """Refuse a place for the result that is of the wrong kind or, without `force`, in use."""
    if not out.strip() or "\0" in out:
        raise UserError(f"--out is {out!r}: expected the path of a file or folder")
    try:
        why = _refusal(out, to, Path(source).resolve(), force)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    if why:
        raise UserError(f"--out {out} {why}")


def _refusal(out: str, to: str, source: Path, force: bool) -> str | None:
    """What speaks against `--out`, and the remedy; or None."""
    path, is_file = Path(out), to == "official"
    if is_file and (out.endswith(("/", os.sep)) or path.is_dir()):
        return "is a folder: for --to official name a .pdparams file"
    if not is_file and path.exists() and not path.is_dir():
        return f"is a file: for --to {to} name a folder"
    why = None if force else _in_use(path.resolve(), is_file, source)
    return why and f"{why}: name another place, or add --force"


def _in_use(path: Path, is_file: bool, source: Path) -> str | None:
    """What speaks against writing there, or None."""
    if path.exists() and path in (source, source.parent if source.is_file() else source):
        return "is where the weights come from"
    for folder in (path, *path.parents):
        run = (folder / "train.log").is_file() and (folder / "config.yaml").is_file()
        if run or next((folder / "checkpoints").glob("step_*"), None):
            return f"lies in the folder of a run, {folder}"
    if is_file and path.exists() and path.suffix != ".pdparams":
        return "is another file"
    if is_file or not path.exists():
        return None
    others = sorted({p.name for p in path.iterdir()} - _WRITTEN)
    return f"holds other files, such as {others[0]}" if others else None
