"""How a mistake in the configuration is said: where it stands, its key, the value on one line."""

from __future__ import annotations

import reprlib
from typing import Any

from ernie_vil2.errors import UserError

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def show(value: Any) -> str:
    """The value on one short line, spelt as in YAML where Python differs."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return _REPR.repr(value)


def join(key: str, name: Any) -> str:
    """The dotted key of `name`, a key or an index, below `key`."""
    name = name if str(name).isprintable() else repr(name)
    return f"{key}.{name}" if key else str(name)


def wrong(where: str, key: str, value: Any, expected: str) -> UserError:
    """The error for a value that is not as expected; `where` is the file, or "-o"."""
    return UserError(f"{where}: {key or 'its content'} is {show(value)}; expected {expected}")
