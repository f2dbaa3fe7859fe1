"""Kinds of values that a key of the configuration may hold, and how each is checked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ernie_vil2.config.hints import hint
from ernie_vil2.config.messages import join, wrong
from ernie_vil2.errors import UserError

REQUIRED, OPTIONAL = object(), object()  # instead of a default: must be stated; may be absent


class Dotted(dict):
    """A mapping made of the dotted key of an override: over a list its keys are indices."""


class Kind:
    """What a key may hold: `expected` in words, its `default`, and whether it may be `null`."""

    def check(self, value, key: str, where: str, whole: bool):
        """The value as the program wants it; UserError unless it is of this kind.

        where: the file, or "-o". whole: fill in what is missing too, or demand it.
        """
        return None if value is None and self.null else self.read(value, key, where, whole)

    def refuse(self, value, key: str, where: str):
        raise wrong(where, key, value, self.expected + (", or null" if self.null else ""))


@dataclass(frozen=True)
class Leaf(Kind):
    """One value, of one of `types` (a bool is no int), for which `valid` holds.

    spellings: of names that are read in any case, lower case -> as the program spells it.
    """

    expected: str
    types: tuple
    valid: Callable
    default: Any = REQUIRED
    null: bool = False
    spellings: Mapping | None = None

    def read(self, value, key, where, whole):
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
    valid: Callable
    default: Any = REQUIRED
    null: bool = False

    def read(self, value, key, where, whole):
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
    """A mapping with known keys; a nullable one is null when missing.

    component: takes further keys, which its builder checks against the component of that `name`;
    what belongs to another component is dropped when `name` changes.
    """

    fields: Mapping
    component: bool = False
    null: bool = False

    @property
    def default(self):
        return None if self.null else {}

    @property
    def expected(self):
        return f"a mapping with {', '.join(self.fields)}"

    @property
    def common(self) -> set:
        """Keys that mean the same whatever the component's name."""
        return {k for k, kind in self.fields.items() if kind.default not in (REQUIRED, OPTIONAL)}

    def read(self, value, key, where, whole):
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


def section(**fields) -> Section:
    return Section(fields)


def component(**fields) -> Section:
    return Section(fields, component=True)


def nullable(kind):
    return replace(kind, null=True)


# Limits: what is expected, in words, and the test of it.
def between(low: int, high: int) -> tuple:
    return f"from {low} to {high}", lambda x: low <= x <= high


POSITIVE = ("above 0", lambda x: x > 0)
ANY = ("that is finite", lambda x: True)
NOT_NEGATIVE = ("of at least 0", lambda x: x >= 0)
PROBABILITY = ("from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = ("from 0 to below 1", lambda x: 0 <= x < 1)
SHARE = ("above 0 and at most 1", lambda x: 0 < x <= 1)
SECONDS = ("above 0 and at most 31536000, a year", lambda x: 0 < x <= 31_536_000)

# Upper bounds, far beyond any use: past them a number is a slip, which would end in a hang, in a
# full memory or in an error of a library that has never heard of the key.
MANY = 10**9  # steps, records
WIDE = 10**6  # widths and lengths of a tower
PIXELS = 16_384  # the side of a picture


def integer(limits, default=REQUIRED, most: int = MANY) -> Leaf:
    """most: the upper bound of POSITIVE and NOT_NEGATIVE; other limits have one of their own."""
    if limits in (POSITIVE, NOT_NEGATIVE):
        limits = between(int(limits is POSITIVE), most)
    return Leaf(f"an integer {limits[0]}", (int,), limits[1], default)


def number(limits, default=REQUIRED) -> Leaf:
    expected, valid = limits

    def finite(x):  # neither inf, NaN nor an integer that no float can hold
        return abs(x) < sys.float_info.max and valid(x)

    return Leaf(f"a number {expected}", (int, float), finite, default)


def boolean(default) -> Leaf:
    return Leaf("true or false", (bool,), lambda value: True, default)


def string(default=REQUIRED, expected="a string that is not empty", valid=str.strip) -> Leaf:
    return Leaf(expected, (str,), valid, default)


def choice(*options, default=REQUIRED) -> Leaf:
    """One of `options`, in any case: `adamw` is `AdamW`."""
    leaf = string(default, f"one of {', '.join(options)}", lambda value: value in options)
    return replace(leaf, spellings={option.lower(): option for option in options})


def template(default) -> Leaf:
    expected = 'a sentence with one "{}" where the tags go, and no other braces'
    return string(default, expected, lambda value: re.fullmatch(r"[^{}]*\{\}[^{}]*", value))


def regex() -> Leaf:
    def valid(value):
        try:
            return value != "" and bool(re.compile(value))
        except re.error:
            return False

    return string(expected="a regular expression that is not empty", valid=valid)


def _different(items) -> bool:
    return len(set(items)) == len(items)


# How many items, and which: in words, and the test of it.
SOME = ("one or more items", len)
SET = ("different items", _different)
SOME_SET = ("one or more different items", lambda items: items and _different(items))
PAIR = ("2 different items", lambda items: len(items) == 2 and _different(items))
RANGE = ("2 items, the smaller first", lambda items: len(items) == 2 and items[0] <= items[1])
THREE = ("3 items", lambda items: len(items) == 3)


def listof(item: Kind, items, default=REQUIRED) -> ListOf:
    return ListOf(item, f"a list of {items[0]}, each {item.expected}", items[1], default)
