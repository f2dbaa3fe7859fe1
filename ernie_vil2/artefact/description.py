"""`inference.yml`: how it is written, read and checked, value by value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ernie_vil2.data.class_names import read_lines
from ernie_vil2.errors import UserError
from ernie_vil2.preprocessing import PREPROCESSINGS

DESCRIPTION, VOCABULARY, GOLDEN = "inference.yml", "vocab.txt", "golden.npz"
CLASSIFIER = "classifier.npz"  # not in every export
SHAPES = "tensorrt"  # the folder of a file for each tower
FORMAT = 2
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
# Of each template a text is made with a label in place of {}; a label's embedding is their mean.
PROMPTS = ("{}", "一张{}的图片", "a photo of {}", "a picture of {}")
_RANGES = {
    "embed_dim": (1, 1 << 16),
    "image_size": (1, 1 << 13),
    "vocab_size": (1, 1 << 31),
    "max_positions": (3, 1 << 20),
    "max_len": (3, 1 << 20),
}


def read(path: Path) -> dict[str, Any]:
    """What an `inference.yml` holds.

    Raises:
        UserError: missing, no YAML, another format.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parent} holds no {path.name}: expected the folder that tools/export.py wrote"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is {type(content).__name__}: expected what tools/export.py wrote")
    found = content.get("format")
    if found != FORMAT:
        without = ", which has no checksums of its files" if found == 1 else ""
        raise UserError(
            f"{path} has format {_short(found)}{without}; this version reads {FORMAT}: "
            "export the model again"
        )
    return content


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write an `inference.yml`, with its format and a checksum of itself."""
    text = yaml.safe_dump({"format": FORMAT, **content}, allow_unicode=True, sort_keys=False)
    text += f"checksum: {_checksum(yaml.safe_load(text))}\n"
    path.write_text(text, encoding="utf-8")


def check_seal(content: Mapping[str, Any], path: Path) -> None:
    """Compare a file with its own checksum.

    Raises:
        UserError: it says something else than was written.
    """
    plain = {name: value for name, value in content.items() if name != "checksum"}
    if content.get("checksum") != _checksum(plain):
        raise UserError(
            f"{path} does not match its own checksum: it is damaged or was edited; export or copy "
            "the model again"
        )


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of what a YAML file says, however it is laid out there."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def check_values(artefact: Any, path: Path) -> None:
    """Look at each value of an `Artefact` by itself.

    Raises:
        UserError: names a value that cannot be.
    """

    def expect(right: bool, name: str, value: object, expected: str) -> None:
        if not right:
            raise UserError(
                f"{path} says {name} {_short(value)}: expected {expected}; export again"
            )

    for name, (least, most) in _RANGES.items():
        value = getattr(artefact, name)
        right = type(value) is int and least <= value <= most
        expect(right, name, value, f"a whole number, {least} to {most}")
    longest = artefact.max_positions
    expect(artefact.max_len <= longest, "max_len", artefact.max_len, f"max_positions, {longest}")
    scale = artefact.logit_scale
    expect(_is_number(scale) and scale > 0, "logit_scale", scale, "a finite number above 0")
    for name in ("mean", "std"):
        value = getattr(artefact, name)
        right = isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))
        right = right and (name == "mean" or min(value) > 0)
        expect(right, name, value, "three finite numbers, those of std above 0")
    named = artefact.preprocessing
    expected = f"one of {', '.join(PREPROCESSINGS)}"
    expect(type(named) is str and named in PREPROCESSINGS, "preprocessing", named, expected)
    for name in ("preprocess", "lowercase", "straight_quotes"):
        value = getattr(artefact, name)
        expect(type(value) is bool, name, value, "true or false")
    check_prompts(artefact.prompts, str(path))
    for name, of in (("precisions", dict), ("weights", str), ("versions", str), ("files", str)):
        value = getattr(artefact, name)
        right = isinstance(value, dict) and all(type(part) is of for part in value.values())
        expect(right and len(value) > 0, name, value, "names and what belongs to them")
    for name, measured in artefact.precisions.items():
        least = measured.get("min_cosine", 1)
        right = name in PRECISIONS and _is_number(least) and -1 <= least <= 1
        expect(right, f"precisions.{name}", measured, "a precision and what was measured of it")
    made, shapes = artefact.golden_made, artefact.tensorrt
    right = isinstance(made, dict) and all(type(value) is str for value in made.values())
    expect(right, "golden", made, "the device and the precision of golden.npz, or nothing")
    right = shapes == {} or (
        isinstance(shapes, dict)
        and set(shapes) == {"max_batch", "max_len"}
        and all(type(value) is int and value > 0 for value in shapes.values())
    )
    expect(right, "tensorrt", shapes, "max_batch and max_len, whole numbers above 0, or nothing")


def check_prompts(prompts: list[str], where: str) -> list[str]:
    """The templates themselves.

    Args:
        where: what holds them, for the message.

    Raises:
        UserError: none, or one without exactly one `{}`.
    """
    if not isinstance(prompts, list) or not prompts:
        raise UserError(f"{where} has no prompt template: expected at least one, as in {{}}")
    for prompt in prompts:
        if not isinstance(prompt, str) or prompt.count("{}") != 1:
            raise UserError(f"prompt template {_short(prompt)} in {where}: expected {{}} once")
    return prompts


def read_prompts(what: str | Path) -> list[str]:
    """The templates of a list of the package (`data/class_names.py`), or of a file, one a line.

    Raises:
        UserError: as `check_prompts` and `read_lines`.
    """
    return check_prompts(read_lines(what, "templates"), str(what))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # not NaN either


def _short(value: object) -> str:
    return "of many digits" if type(value) is int and abs(value) >> 99 else repr(value)[:60]
