"""What a user can do wrong, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's: one line with the value, what was expected and the remedy.

    The command-line tools print it without a traceback and exit with code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`'; did you mean "depth"?'` for the closest of `known`, else the list of all it could be."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known: {', '.join(known)}" if known else ""
