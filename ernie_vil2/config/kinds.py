"""Kinds of values that a key of the configuration may hold, and how each is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, NoReturn, TypeVar

from ernie_vil2.config.hints import hint
from ernie_vil2.config.messages import join, wrong
from ernie_vil2.errors import UserError
from ernie_vil2.limits import MANY, NOT_NEGATIVE, POSITIVE, Items, Limit, between

REQUIRED, OPTIONAL = object(), object()  # instead of a default: must be stated; may be absent


class Dotted(dict[str, Any]):
    """A mapping made of the dotted key of an override: over a list its keys are indices."""


class Kind:
    """What a key may hold.

    Attributes:
        expected: in words.
        default: what stands for a key that is absent, else REQUIRED or OPTIONAL.
        null: whether it may be `null`.
    """

    expected: str
    default: Any
    null: bool

    def check(self, value: Any, key: str, where: str, whole: bool) -> Any:
        """The value as the program wants it.

        Args:
            key: dotted.
            where: the file, or "-o".
            whole: fill in what is missing too, or demand it.

        Raises:
            UserError: the value is not of this kind.
        """
        return None if value is None and self.null else self.read(value, key, where, whole)

    def read(self, value: Any, key: str, where: str, whole: bool) -> Any:
        """`check` of a value that is not a permitted `null`."""
        raise NotImplementedError

    def refuse(self, value: Any, key: str, where: str) -> NoReturn:
        raise wrong(where, key, value, self.expected + (", or null" if self.null else ""))


@dataclass(frozen=True)
class Leaf(Kind):
    """One value, of one of `types` (a bool is no int), for which `valid` holds.

    Attributes:
        spellings: of names that are read in any case, lower case -> as the program spells it.
    """

    expected: str
    types: tuple[type, ...]
    valid: Callable[[Any], object]
    default: Any = REQUIRED
    null: bool = False
    spellings: Mapping[str, str] | None = None

    def read(self, value: Any, key: str, where: str, whole: bool) -> Any:
        if self.spellings and isinstance(value, str):
            value = self.spellings.get(value.lower(), value)
        if type(value) not in self.types or not self.valid(value):
            self.refuse(value, key, where)
        return float(value) if float in self.types else value


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind, for which `valid` holds."""

    item: Kind
    expected: str
    valid: Callable[[list[Any]], bool]
    default: Any = REQUIRED
    null: bool = False

    def read(self, value: Any, key: str, where: str, whole: bool) -> Any:
        if isinstance(value, Dotted):
            return {i: self.item.check(v, join(key, i), where, False) for i, v in value.items()}
        if not isinstance(value, list):
            self.refuse(value, key, where)
        # Lists are replaced, never merged: their items are whole.
        items = [self.item.check(v, join(key, i), where, True) for i, v in enumerate(value)]
        if not self.valid(items):
            self.refuse(value, key, where)
        return items


@dataclass(frozen=True)
class Section(Kind):
    """A mapping with known keys; a nullable one is null when it is absent.

    Attributes:
        component: takes further keys, which its builder checks against the component of that
            `name`; what belongs to another component is dropped when `name` changes.
    """

    fields: Mapping[str, Kind]
    expected: str
    default: Any
    component: bool = False
    null: bool = False

    @property
    def common(self) -> set[str]:
        """Keys that mean the same whatever the component's name."""
        return {k for k, kind in self.fields.items() if kind.default not in (REQUIRED, OPTIONAL)}

    def read(self, value: Any, key: str, where: str, whole: bool) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(value, key, where)
        further = {name: item for name, item in value.items() if name not in self.fields}
        if further and not self.component:
            name = next(iter(further))
            meant = hint(key, name, self.fields)
            raise UserError(f"{where}: unknown key {join(key, name)}{meant}")
        known = {}
        for name, kind in self.fields.items():
            at = join(key, name)
            if name in value:
                known[name] = kind.check(value[name], at, where, whole)
            elif whole and kind.default is REQUIRED:
                raise UserError(f"{where}: {at} is missing; state {kind.expected}")
            elif whole and kind.default is not OPTIONAL:
                known[name] = kind.check(kind.default, at, where, whole)
        return {**known, **further}


@dataclass(frozen=True)
class Either(Kind):
    """A mapping, or a value on its own."""

    leaf: Leaf
    section: Section
    default: Any = REQUIRED
    null: bool = False

    @property
    def expected(self) -> str:  # type: ignore[override]
        return f"{self.leaf.expected}, or {self.section.expected}"

    def read(self, value: Any, key: str, where: str, whole: bool) -> Any:
        if isinstance(value, dict) and value.keys() <= self.section.fields.keys():
            return self.section.read(value, key, where, whole)
        if type(value) not in self.leaf.types:
            self.refuse(value, key, where)
        return self.leaf.read(value, key, where, whole)


# -- How the schema writes them --------------------------------------------------------------------

AnyKind = TypeVar("AnyKind", Leaf, ListOf, Section)


def section(**fields: Kind) -> Section:
    return Section(fields, f"a mapping with {', '.join(fields)}", default={})


def component(**fields: Kind) -> Section:
    return replace(section(**fields), component=True)


def nullable(kind: AnyKind) -> AnyKind:
    if isinstance(kind, Section):
        return replace(kind, null=True, default=None)
    return replace(kind, null=True)


def integer(limit: Limit, default: Any = REQUIRED, most: int = MANY) -> Leaf:
    """An integer.

    Args:
        most: the upper bound of POSITIVE and NOT_NEGATIVE; other limits have one of their own.
    """
    if limit in (POSITIVE, NOT_NEGATIVE):
        limit = between(int(limit is POSITIVE), most)
    return Leaf(f"an integer {limit.words}", (int,), limit.allows, default)


def odd_integer(limit: Limit, default: Any) -> Leaf:
    """An integer of a limit that allows odd ones alone."""
    return Leaf(f"an odd integer {limit.words}", (int,), limit.allows, default)


def number(limit: Limit, default: Any = REQUIRED) -> Leaf:
    return Leaf(f"a number {limit.words}", (int, float), limit.allows, default)


def boolean(default: Any) -> Leaf:
    return Leaf("true or false", (bool,), lambda value: True, default)


def string(
    default: Any = REQUIRED,
    expected: str = "a string that is not empty",
    valid: Callable[[str], object] = str.strip,
) -> Leaf:
    return Leaf(expected, (str,), valid, default)


def choice(*options: str, default: Any = REQUIRED) -> Leaf:
    """One of `options`, in any case: `adamw` is `AdamW`."""
    leaf = string(default, f"one of {', '.join(options)}", lambda value: value in options)
    return replace(leaf, spellings={option.lower(): option for option in options})


def template(default: str) -> Leaf:
    expected = 'a sentence with one "{}" where the tags go, and no other braces'
    return string(default, expected, lambda value: re.fullmatch(r"[^{}]*\{\}[^{}]*", value))


def regex(default: Any = REQUIRED) -> Leaf:
    def valid(value: str) -> bool:
        try:
            return value != "" and bool(re.compile(value))
        except re.error:
            return False

    return string(default, "a regular expression that is not empty", valid)


def listof(item: Kind, items: Items, default: Any = REQUIRED) -> ListOf:
    return ListOf(item, f"a list of {items.words}, each {item.expected}", items.holds, default)
