"""Weights of one format written in another, and where they may be written to."""

from __future__ import annotations

import os
from pathlib import Path

from ernie_vil2 import runtime
from ernie_vil2.errors import UserError, did_you_mean

CLIP = ("chinese_clip", "openai", "open_clip", "huggingface")  # written by PyTorch
FORMATS = ("official", "paddlenlp", "ernie_vil2", *CLIP)
# format -> what its files end with; of the others it is a folder
_FILES = {
    "official": (".pdparams",),
    "chinese_clip": (".pt",),
    "openai": (".pt", ".safetensors"),
    "open_clip": (".pt", ".safetensors"),
}
# What a conversion before may have left; a folder of these alone may be written over.
_WRITTEN = {
    "base.json",
    "config.json",
    "config.yaml",
    "manifest.json",
    "model.safetensors",
    "merge.html",
    "merge.json",
    "merge_line.png",
    "merge_sets.png",
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
    kind: str | None = None,
    vocab: str | None = None,
    merge: bool = False,
    base: str | None = None,
) -> None:
    """Read weights of any format and write them in another, with the vocabulary beside them.

    Args:
        source: as `ernie_vil2.load` takes weights; of a `kind` its file or folder.
        to: one of `FORMATS`.
        out: a folder; for what stands in `_FILES` the file.
        config: a YAML file with `Arch`; needed for an official file, for another img_size, and
            with `Arch.Text` for an image tower alone.
        partial: convert although keys are missing or do not fit.
        force: write into a run folder, over the source, or among other files.
        kind: one of `CLIP`, whose weights `source` is; None is any other format.
        vocab: the vocabulary; None is the one beside the weights.
        merge: add the adapters to the weights below them.
        base: of adapters, where the weights below them lie; None is where they were.

    Raises:
        UserError: an unknown format, a place that is in use, weights that cannot be read or that
            the format cannot hold.
    """
    for name, known in ((to, FORMATS), (kind, CLIP)):
        if name is not None and name not in known:
            raise UserError(f'no format "{name}"{did_you_mean(name, known)}')
    if vocab is not None and not Path(vocab).is_file():
        raise UserError(f"--vocab {vocab} is no file: expected one with one token a line")
    check_out(out, to, source, force)
    runtime.prepare()  # before Paddle

    from ernie_vil2.weights.base import merge_or_refuse
    from ernie_vil2.weights.clip.load import load_clip
    from ernie_vil2.weights.clip.save import save_clip
    from ernie_vil2.weights.load import load
    from ernie_vil2.weights.official import save_official
    from ernie_vil2.weights.ours import save_checkpoint
    from ernie_vil2.weights.paddlenlp import save_paddlenlp
    from ernie_vil2.weights.preprocessing import own_preprocessing, own_tokenizer
    from ernie_vil2.weights.vocabulary import own_vocabulary

    if kind is None:
        model, tokenizer = load(source, config, partial, base), own_tokenizer(source)
        merge_or_refuse(model, source, to, merge)
        vocab_file = vocab or own_vocabulary(source).get("vocab_file")
        transform = own_preprocessing(source)
    else:
        model, transform, tokenizer, beside = load_clip(kind, source, config, partial)
        vocab_file = vocab or beside
    if to == "official":
        save_official(model, out)
    elif to == "paddlenlp":
        save_paddlenlp(model, out, vocab_file, force)
    elif to in CLIP:
        save_clip(model, to, out, vocab_file)
    else:
        save_checkpoint(model, out, vocab_file, transform, tokenizer)


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
    path, is_file = Path(out), to in _FILES
    if is_file and (out.endswith(("/", os.sep)) or path.is_dir()):
        return f"is a folder: for --to {to} name a {_FILES[to][0]} file"
    if not is_file and path.exists() and not path.is_dir():
        return f"is a file: for --to {to} name a folder"
    why = None if force else _in_use(path.resolve(), _FILES.get(to), source)
    return why and f"{why}: name another place, or add --force"


def _in_use(path: Path, suffixes: tuple[str, ...] | None, source: Path) -> str | None:
    """What speaks against writing a file with such a suffix, or a folder there; or None."""
    if path.exists() and path in (source, source.parent if source.is_file() else source):
        return "is where the weights come from"
    for folder in (path, *path.parents):
        run = (folder / "train.log").is_file() and (folder / "config.yaml").is_file()
        if run or next((folder / "checkpoints").glob("step_*"), None):
            return f"lies in the folder of a run, {folder}"
    if suffixes and path.exists() and path.suffix not in suffixes:
        return "is another file"
    if suffixes or not path.exists():
        return None
    others = sorted({p.name for p in path.iterdir()} - _WRITTEN)
    return f"holds other files, such as {others[0]}" if others else None
