"""Packages that only some formats of data and stores need."""

from __future__ import annotations

import importlib
from typing import Any

from ernie_vil2.errors import UserError


def needed(module: str, what: str, extra: str = "data") -> Any:
    """The module `module` of an optional package, which `what` cannot do without.

    Args:
        extra: of this package, with which it is installed.

    Raises:
        UserError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError)
        reason = "" if missing else f" ({' '.join(str(error).split())})"
        raise UserError(
            f'{what} needs the package {package}{reason}: pip install "ernie_vil2[{extra}]"'
        ) from error
