"""Names of categories in English and Chinese: files of `data/labels/`, which state their sources.

An exported detector names its categories in English, with the spelling of its data set; here are
the words that a person would use.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ernie_vil2
from ernie_vil2.errors import UserError

FOLDER = Path(ernie_vil2.__file__).parent / "data" / "labels"
LANGUAGES = ("en", "zh")
_KNOWN = ("coco", "objects365", "vehicle_attribute", "person_attribute")


class Label(NamedTuple):
    """A category.

    Attributes:
        name: as its data set spells it.
        en, zh: its tags.
        setting: for attributes, its threshold's name in the model's configuration.
        group: for attributes, those of which a thing has one; "-": none.
    """

    name: str
    en: str
    zh: str
    setting: str = ""
    group: str = "-"


@functools.cache
def labels(name: str) -> tuple[Label, ...]:
    """The labels of a file in `data/labels/`, in their order."""
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(Label(*line.split("\t")[1:]) for line in lines if not line.startswith("#"))


def stated_labels(names: object, label_file: str | None, where: str) -> tuple[Label, ...]:
    """The labels of a model, with English and Chinese names where a file of this project has them.

    Args:
        names: what the model's configuration lists.
        label_file: used instead, where given: a line for each category, which is its name, or
            "index name" as PaddleClas has them, or name, English and Chinese tag with tabs between.
        where: the configuration, for messages.

    Raises:
        UserError: no names; a file that cannot be read.
    """
    if label_file:
        return _from_file(Path(label_file))
    if not isinstance(names, list) or not names:
        raise UserError(f"{where} has no label_list: give a file of labels, one a line (--labels)")
    plain = [" ".join(str(name).split()) for name in names]
    known = _known_labels(plain)
    return tuple(known.get(name.lower()) or Label(name, name, "") for name in plain)


def in_language(known: Sequence[Label], language: str | None) -> list[str]:
    """A tag for each label.

    Args:
        language: "en" or "zh"; None: "en".

    Raises:
        UserError: a label without a name in that language.
    """
    if language not in (None, *LANGUAGES):
        raise UserError(f"language {language!r} of tags: expected one of {', '.join(LANGUAGES)}")
    tags = [getattr(label, language or "en") for label in known]
    if not all(tags):
        first = known[tags.index("")].name
        raise UserError(
            f"no Chinese name is known of {first!r} and {tags.count('') - 1} more: give a file "
            "with --labels, in which each line is name, English and Chinese with tabs between"
        )
    return tags


def _known_labels(names: Sequence[str]) -> dict[str, Label]:
    """Name in lower case -> label, from all files; that which has most of the names goes first."""
    wanted = {name.lower() for name in names}
    tables = [{label.name.lower(): label for label in labels(name)} for name in _KNOWN]
    tables.sort(key=lambda table: len(wanted & table.keys()))
    return {name: label for table in tables for name, label in table.items()}


def _from_file(path: Path) -> tuple[Label, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from None
    lines = [line for line in lines if line]
    parts = [line.split(maxsplit=1) for line in lines]
    if all(len(part) == 2 and part[0] == str(i) for i, part in enumerate(parts)):
        lines = [name for _, name in parts]
    if not lines:
        raise UserError(f"{path} holds no label: expected one a line")
    return tuple(_label(line, path) for line in lines)


def _label(line: str, path: Path) -> Label:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) == 1:
        has_english = line.isascii()
        return Label(line, line, "" if has_english else line)
    if len(columns) != 3 or not all(columns):
        raise UserError(f"{path}: {line[:60]!r} is neither a label nor name, English and Chinese")
    return Label(*columns)
