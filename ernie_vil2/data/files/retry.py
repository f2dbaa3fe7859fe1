"""A store that fails is asked again, for a while."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from ernie_vil2.errors import UserError

log = logging.getLogger("ernie_vil2")
_T = TypeVar("_T")
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two attempts
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE)
_TRY_AGAIN = (408, 409, 425, 429)  # of the statuses below 500
_jitter = random.SystemRandom()  # forked workers would else wait alike


class StoreError(UserError):
    """A file of a store that could not be had: its URL, what the store answered, the remedy.

    Attributes:
        final: the store has answered, and would say the same again.
    """

    final = False


class Stopped(Exception):
    """Nobody waits for this file any more."""


class Retry(NamedTuple):
    """How long a store that fails is asked again.

    Attributes:
        attempts: at most.
        seconds: after which no further attempt begins.
    """

    attempts: int = 6
    seconds: float = 120.0


def insist(
    action: Callable[[], _T], url: str, retry: Retry, wait: Callable[[float], object] = time.sleep
) -> _T:
    """What `action` gives, tried again with longer and longer pauses while the store fails.

    Args:
        wait: for so many seconds.

    Raises:
        StoreError: it failed each time, or the store's answer is final.
        OSError: this machine's disk is what fails.
    """
    began = time.monotonic()
    for attempt in range(1, retry.attempts + 1):
        try:
            return action()
        except (UserError, Stopped, MemoryError):
            raise
        except Exception as error:  # botocore's and aiohttp's have no class in common
            if isinstance(error, OSError) and error.errno in _LOCAL:
                raise
            final = _is_final(error)
            pause = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1)) * _jitter.uniform(0.5, 1)
            spent = time.monotonic() - began
            if final or attempt == retry.attempts or spent + pause > retry.seconds:
                raise _failed(url, error, final, attempt, spent) from error
            log.info("%s: %s; asked again in %.1f s", url, _answer(error), pause)
            wait(pause)
    raise AssertionError(retry)


def _failed(url: str, error: Exception, final: bool, attempts: int, spent: float) -> StoreError:
    remedy = "see whether the store can be reached from here, then start again"
    if _status(error) in (401, 403) or isinstance(error, PermissionError):
        remedy = "see to the credentials, in the environment or in fsspec's configuration"
    elif final:
        remedy = "see to the name"
    tries = "" if final else f" (attempt {attempts}, after {spent:.0f} s)"
    failed = StoreError(f"{url} cannot be had: {_answer(error)}{tries}; {remedy}")
    failed.final = final
    return failed


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that led to it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _status(error: Exception) -> int | None:
    """The HTTP status that the store answered, if it did."""
    for cause in _chain(error):
        status = getattr(cause, "status", None)
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):  # botocore's
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return None


def _is_final(error: Exception) -> bool:
    """Whether the store has answered, and would say the same again."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _TRY_AGAIN
    # fsspec's HTTP says FileNotFoundError of a connection that was refused, too
    refused = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, refused) and len(_chain(error)) == 1


def _answer(error: Exception) -> str:
    """What went wrong, in one line: the cause, where fsspec has hidden it behind another error."""
    cause = _chain(error)[-1] if isinstance(error, FileNotFoundError) else error
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    text = " ".join(text.split()) or type(cause).__name__
    if isinstance(cause, FileNotFoundError):
        text = "no such file"
    status = _status(error)
    return text if status is None or str(status) in text else f"{text} (HTTP {status})"
