"""Names of classes and the templates of their prompts: lists of other projects, and files.

The lists lie in `classes/`, each with its source and licence in its first lines:

- names: imagenet_en (OpenAI CLIP), imagenet_zh (Chinese-CLIP);
- templates: openai_imagenet, chinese_clip_imagenet, chinese_clip (what its zeroshot_evaluation.py
  takes), and chinese_clip_ with flower, food, aircraft, eurosat, country211.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ernie_vil2.errors import UserError, did_you_mean

log = logging.getLogger("ernie_vil2")
_FOLDER = Path(__file__).parent / "classes"


class Class(NamedTuple):
    """What a picture may be.

    Attributes:
        key: what a data set calls it: a folder, a number, a text.
        name: what prompts call it; two classes may have one name.
    """

    key: str
    name: str


class NameList(NamedTuple):
    """The lines of a list of names.

    Attributes:
        where: the file or list, for messages.
        names: in the order of the lines.
        keys: what the lines say before a tab; (): they have none.
    """

    where: str
    names: tuple[str, ...]
    keys: tuple[str, ...] = ()


def listed(kind: str) -> list[str]:
    """The names of the lists that the package has of a kind, "names" or "templates"."""
    return sorted(path.stem.partition("_")[2] for path in _FOLDER.glob(f"{kind}_*.txt"))


def read_lines(what: str | os.PathLike[str], kind: str) -> list[str]:
    """The lines of one of the package's lists, or of a file.

    Args:
        what: a list's name, or a path.
        kind: "names" or "templates".

    Raises:
        UserError: neither, a file that cannot be read, an empty one, a blank line between names.
    """
    own = str(what) in listed(kind)
    path = _FOLDER / f"{kind}_{what}.txt" if own else Path(what)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        raise UserError(
            f"no list of {kind} and no file {what}{did_you_mean(str(what), listed(kind))}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} cannot be read as UTF-8 text: {reason}") from None
    if own:
        lines = [line for line in lines if not line.startswith("# ")]
    if kind == "templates":
        lines = list(filter(None, lines))
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{what} is empty: expected {kind}, one a line")
    if "" in lines:
        raise UserError(
            f"{what}:{lines.index('') + 1} is blank: expected a name, since lines count as classes"
        )
    return lines


def read_names(what: str | os.PathLike[str]) -> NameList:
    r"""A list of names, one a line; each line, or none, may say `key \t name`.

    Raises:
        UserError: as `read_lines`; some lines with a tab and some without, a key twice.
    """
    lines = read_lines(what, "names")
    parts = [line.split("\t") for line in lines]
    width = len(parts[0])
    for number, part in enumerate(parts, 1):
        if len(part) != width or width > 2 or not all(map(str.strip, part)):
            raise UserError(
                f"{what}:{number} has {len(part)} columns: expected a name on each line, or on "
                "each a class, a tab and its name"
            )
    if width == 1:
        return NameList(str(what), tuple(lines))
    keys = tuple(key.strip() for key, _ in parts)
    _refuse_twice(keys, str(what))
    return NameList(str(what), tuple(name.strip() for _, name in parts), keys)


def name_classes(keys: Sequence[str], names: NameList, kind: str = "class folder") -> list[Class]:
    """The classes of a set whose pictures are sorted under `keys`, with their names.

    Names that stand behind keys are those of these keys. Else, where each key is a name, it names
    itself; where all keys are numbers, they are lines, from 0, as in ELEVATER's sets and
    Chinese-CLIP's; and where there are as many, they follow the keys in order, as ImageNet's follow
    its synsets.

    Args:
        keys: in order.
        kind: what a key is, for messages.

    Returns:
        Every class that the list names, in its order, also one without a picture.

    Raises:
        UserError: a key that is not named, a class that is named twice.
    """
    if names.keys:
        _refuse_missing(keys, names.keys, names, kind)
        classes = list(map(Class, names.keys, names.names))
    elif set(keys) <= set(names.names):
        _refuse_twice(names.names, names.where)
        return [Class(name, name) for name in names.names]
    elif all(key.isascii() and key.isdecimal() for key in keys):
        key_of = {int(key): key for key in keys}
        if max(key_of) >= len(names.names):
            raise UserError(
                f"{kind} {key_of[max(key_of)]} has no line in {names.where}, which has "
                f"{len(names.names)} (the first is 0): add its name"
            )
        classes = [Class(key_of.get(i, str(i)), name) for i, name in enumerate(names.names)]
    elif len(keys) == len(names.names):
        classes = list(map(Class, keys, names.names))
    else:
        _refuse_missing(keys, names.names, names, kind)
    _warn_of_one_name(classes, names.where)
    return classes


def _refuse_missing(keys: Sequence[str], known: Sequence[str], names: NameList, kind: str) -> None:
    missing = [key for key in keys if key not in set(known)]
    if missing:
        raise UserError(
            f"{kind} {missing[0]} is not in {names.where}, which names {len(known)} classes"
            f"{did_you_mean(missing[0], known) if len(known) < 300 else ''}: add a line with it, "
            "a tab and its name"
        )


def _refuse_twice(keys: Sequence[str], where: str) -> None:
    (key, times), *_ = Counter(keys).most_common(1)
    if times > 1:
        first, second = [i for i, each in enumerate(keys, 1) if each == key][:2]
        raise UserError(
            f"{where} names {key} twice, on lines {first} and {second}: a class has one line"
        )


def _warn_of_one_name(classes: Sequence[Class], where: str) -> None:
    """Chinese-CLIP's names of ImageNet have three such pairs."""
    twice = [name for name, times in Counter(c.name for c in classes).items() if times > 1]
    if twice:
        log.warning(
            "%s gives one name to several classes, which no text tells apart: %s",
            where,
            ", ".join(twice[:5]),
        )
