"""Dates that people write, as the moment at which they begin."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from ernie_vil2.errors import UserError

_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(T\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:\d\d)?)?)?)?")


def parse_date(text: str) -> int:
    """Seconds since 1970, UTC, of the beginning of a year, month, day, minute or second.

    Args:
        text: ISO 8601: 2024, 2024-05, 2024-05-01, 2024-05-01T18:30, 2024-05-01T18:30:05; in UTC
            unless a time ends in its zone, as +08:00.

    Raises:
        UserError: something else, or a day that the calendar has not.
    """
    found = _DATE.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError("not in that form")
        year, month, day, time = found.groups()
        whole = f"{year}-{month or '01'}-{day or '01'}{time or 'T00:00'}".replace("Z", "+00:00")
        when = datetime.fromisoformat(whole)
        return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
    except ValueError as error:
        raise UserError(
            f"date {text[:40]!r}: {error}; expected 2024, 2024-05, 2024-05-01 or "
            "2024-05-01T18:30, in UTC unless it ends in its zone, as +08:00"
        ) from None
