"""PaddleNLP's ErnieViLModel: its released names, and folders that it reads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ernie_vil2.errors import UserError
from ernie_vil2.files.durable import replacing_folder
from ernie_vil2.files.pdparams import write_pdparams
from ernie_vil2.models.dual_encoder import DualEncoder
from ernie_vil2.weights import names
from ernie_vil2.weights.official import float32_state, require_official_form
from ernie_vil2.weights.ours import OURS
from ernie_vil2.weights.paddlenlp_config import config_of

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "model_state.pdparams")  # best first


def released() -> dict[str, str]:
    """The repository of each name that PaddleNLP has released; with and without its owner."""
    from paddlenlp.transformers.ernie_vil.modeling import (
        ERNIE_VIL_PRETRAINED_MODEL_ARCHIVE_LIST as repositories,
    )

    return {**{r.split("/")[-1]: r for r in repositories}, **{r: r for r in repositories}}


def download(name: str) -> Path:
    """The folder of released weights, with their vocabulary: PaddleNLP's cache, filled if need be.

    PaddleNLP fetches the files; they are read by this project's own code, which runs nothing that
    is in them.

    Raises:
        UserError: no such name, or no network.
    """
    from paddlenlp.utils.download import resolve_file_path

    repository = released()[name]
    found = []
    # the smallest first, so that a missing network shows at once
    for files in ([CONFIG], ["vocab.txt"], list(WEIGHTS)):
        try:
            path = resolve_file_path(repository, files)
        except Exception as error:  # PaddleNLP raises whatever its download meets
            cause = error.__context__ or error
            raise UserError(
                f"the weights {name} cannot be downloaded through PaddleNLP "
                f"({type(cause).__name__}): go online once, or name a folder or a .pdparams file"
            ) from error
        if path is None and files != ["vocab.txt"]:
            raise UserError(
                f"PaddleNLP's server has no {' or '.join(files)} of {name}: name a folder or a "
                ".pdparams file"
            )
        found.append(path)
    return Path(found[0]).parent


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds what ErnieViLModel.save_pretrained writes."""
    return (path / CONFIG).is_file() and any((path / name).is_file() for name in WEIGHTS)


def save_paddlenlp(
    model: DualEncoder,
    folder: str | os.PathLike,
    vocab_file: str | os.PathLike | None = None,
    force: bool = False,
) -> None:
    """Write `config.json` and `model_state.pdparams` for `ErnieViLModel.from_pretrained(folder)`.

    Args:
        vocab_file: the tokenizer's, copied to vocab.txt beside them.
        force: remove `model.safetensors` from the folder, which both PaddleNLP and `load` read
            first.

    Raises:
        UserError: a model that ErnieViLModel cannot represent, or a folder that cannot be written
            or holds `model.safetensors`.
    """
    require_official_form(model, "PaddleNLP's ErnieViLModel")
    folder = Path(folder)
    if (folder / OURS).exists() and not force:
        raise UserError(f"{folder} holds other weights, {OURS}: name a new folder")
    with replacing_folder(folder) as draft:
        write_pdparams(draft / "model_state.pdparams", names.to_paddlenlp(float32_state(model)))
        config = json.dumps(config_of(model), indent=2)
        (draft / "config.json").write_text(config, encoding="utf-8")
        if vocab_file is not None:
            shutil.copyfile(vocab_file, draft / "vocab.txt")
    for name in (OURS, "config.yaml", "manifest.json") if (folder / OURS).exists() else ():
        (folder / name).unlink(missing_ok=True)
