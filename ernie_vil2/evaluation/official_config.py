"""The flat YAML of the official ERNIE-ViL2's run_infer.py, as a configuration of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ernie_vil2.config import strict_yaml
from ernie_vil2.config.load import Config, load_config
from ernie_vil2.config.messages import wrong
from ernie_vil2.data.tokenize import Tokenizer
from ernie_vil2.errors import UserError, did_you_mean

_TEXTS = ("vocab_file", "text_model_config", "test_file", "init_from_params")
_KEYS = {
    **dict.fromkeys((*_TEXTS, "output_file", "input_dtype", "device"), str),
    **dict.fromkeys(("infer_batch_size", "max_text_seqlen"), int),
    **dict.fromkeys(("pad_token", "cls_token", "sep_token", "mask_token", "unk_token"), int),
}
# of the text tower's JSON
_TEXT_SIZES = (
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
# the official model has these embeddings and adds none of them
_NOT_USED = ("sent_type_vocab_size", "task_type_vocab_size", "type_vocab_size")


class OfficialRun(NamedTuple):
    """What an official YAML asks for.

    Attributes:
        config: ours, whose `DataLoader.Eval` reads `test_file` by the official loader's rule.
        weights: `init_from_params`.
        dump: `output_file`.
    """

    config: Config
    weights: Path
    dump: Path


def read_official(
    path: str | os.PathLike,
    base: str | os.PathLike = "base",
    overrides: Sequence[str] = (),
    weights: str | os.PathLike | None = None,
) -> OfficialRun:
    """Read an official YAML; everything that it does not say is `base`'s.

    Files that it names are looked for in the working directory, as the official program does, and
    then in the folders above the YAML, so that the working directory need not be the official
    repository.

    Args:
        base: a configuration of ours.
        overrides: as in `load_config`; they come last.
        weights: others than the YAML names.

    Raises:
        UserError: a key that is unknown or missing, a file that is missing, special tokens with
            other ids in the vocabulary.
    """
    path = Path(path)
    flat = _read_flat(path)
    wanted = [key for key in _TEXTS if key != "init_from_params" or weights is None]
    files = {key: _find(path, key, flat[key]) for key in wanted}
    text = _read_json(files["text_model_config"])
    values: dict[str, Any] = {
        **{f"Arch.Text.{key}": text[key] for key in _TEXT_SIZES if key in text},
        "Arch.Text.intermediate_size": text.get("intermediate_size", 4 * text["hidden_size"]),
        "Tokenizer.vocab_file": str(files["vocab_file"]),
        "Tokenizer.max_len": flat["max_text_seqlen"],
        "DataLoader.Eval.dataset": {"name": "tsv", "path": str(files["test_file"]), "ends": True},
        "DataLoader.Eval.batch_size": flat["infer_batch_size"],
        "Metric.protocol": "official",
        # the official program takes a GPU for granted where it asks for one
        "Global.device": "auto" if flat.get("device", "gpu") == "gpu" else "cpu",
    }
    stated = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    config = load_config(base, [*stated, *overrides])
    _check_special_tokens(path, flat, config)
    chosen = files["init_from_params"] if weights is None else Path(weights)
    return OfficialRun(config, chosen, Path(flat["output_file"]))


def _read_flat(path: Path) -> dict[str, Any]:
    try:
        content = strict_yaml.parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; expected the YAML that run_infer.py takes") from None
    if not isinstance(content, dict):
        raise wrong(str(path), "", content, "the flat YAML that run_infer.py takes")
    for key, value in content.items():
        if key not in _KEYS:
            raise UserError(
                f"{path}: {key} is no key of the official YAML{did_you_mean(str(key), _KEYS)}; "
                "a configuration of ours is -c"
            )
        if type(value) is not _KEYS[key]:
            expected = "a string" if _KEYS[key] is str else "a whole number"
            raise wrong(str(path), key, value, expected)
    optional = {"input_dtype", "device", *(key for key in _KEYS if key.endswith("_token"))}
    for key in sorted(_KEYS.keys() - optional - content.keys()):
        raise UserError(f"{path}: {key} is missing, which run_infer.py needs")
    return content


def _find(path: Path, key: str, name: str) -> Path:
    for folder in (Path(), *path.absolute().parents):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{path}: {key} is {name}, which is no file of the working directory or of a folder above "
        "the YAML: give its path"
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict) or type(content.get("hidden_size")) is not int:
        raise UserError(f"{path} has no hidden_size: expected the text tower's ernie_config.json")
    for key in sorted(content.keys() - {*_TEXT_SIZES, *_NOT_USED}):
        raise UserError(f"{path}: {key} says something of the text tower that ours does not have")
    return content


def _check_special_tokens(path: Path, flat: Mapping[str, Any], config: Config) -> None:
    tokenizer = Tokenizer(**config.Tokenizer)
    for name in ("pad", "cls", "sep"):  # run_infer.py reads no others
        stated, own = flat.get(f"{name}_token"), getattr(tokenizer, f"{name}_id")
        if stated is not None and stated != own:
            raise UserError(
                f"{path}: {name}_token is {stated}, but [{name.upper()}] is {own} in "
                f"{tokenizer.vocab_file}: name the vocabulary that the weights were trained with"
            )
