"""Where a user's cached files are."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`ernie_vil2` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ernie_vil2"
