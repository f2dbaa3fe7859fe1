"""Whether a collection's vectors are of the model that asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ernie_vil2.errors import UserError

_SHOWN = 12  # digits of a hash


def check_model(uri: str, stored: Any, given: Mapping[str, Any] | None) -> None:
    """Raise UserError unless a collection that holds `stored` may be asked by model `given`."""
    if given is None or json.loads(json.dumps(given)) == stored:
        return
    stored = stored if isinstance(stored, dict) else {}
    differ = [key for key in {**stored, **given} if stored.get(key) != given.get(key)]
    raise UserError(
        f"{uri} holds the vectors of another model ({_name(stored, differ)}) than this one "
        f"({_name(given, differ)}): name the model that it was made with, or {anew(uri)}"
    )


def check_dim(uri: str, stored: int, given: int | None) -> None:
    """Raise UserError unless vectors of `given` numbers go into a collection of `stored`."""
    if given is not None and given != stored:
        raise UserError(
            f"{uri} holds vectors of {stored} numbers, and this model gives {given}: name the "
            f"model that it was made with, or {anew(uri)}"
        )


def check_format(uri: str, stored: Any, read: int) -> None:
    """Raise UserError unless a collection's format is the one that is read."""
    if stored != read:
        raise UserError(
            f"{uri} is a collection of format {stored}, and this version reads {read}: {anew(uri)}"
        )


def anew(uri: str) -> str:
    """The remedy for a collection that is of no use."""
    if "://" in uri:
        return "index into a collection of another name"
    return "make it anew with --rebuild"


def _name(model: Mapping[str, Any], keys: list[str]) -> str:
    """Its values under these keys, hashes cut short."""
    if not model:
        return "which is not known"
    return ", ".join(f"{key} {str(model.get(key, 'none'))[:_SHOWN]}" for key in keys)
