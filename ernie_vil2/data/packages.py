"""Packages that only some formats, stores and logs need."""

from __future__ import annotations

import importlib
from typing import Any

from ernie_vil2.errors import UserError


def needed(module: str, what: str, extra: str | None = "data") -> Any:
    """The module `module` of an optional package, which `what` cannot do without.

    Args:
        extra: of this package, with which it is installed; None: it is installed by itself.

    Raises:
        UserError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError)
        reason = "" if missing else f" ({' '.join(str(error).split())})"
        install = package if extra is None else f'"ernie_vil2[{extra}]"'
        raise UserError(
            f"{what} needs the package {package}{reason}: pip install {install}"
        ) from error
