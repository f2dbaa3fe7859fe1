"""What a client may ask of a server over HTTP: sizes, counts, times, and the key."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from ernie_vil2.errors import UserError
from ernie_vil2.serving.items import ItemLimits
from ernie_vil2.serving.web.errors import ApiError

log = logging.getLogger("ernie_vil2")

KEY_VARIABLE = "ERNIE_VIL2_API_KEY"


@dataclass(frozen=True)
class Limits(ItemLimits):
    """Of one item, of one request, and of all requests together.

    Attributes:
        items: of a request, and in `classify` images plus labels times templates.
        body_bytes: of a request.
        buffered_bytes: of all bodies held at a time.
        body_seconds: to send a body.
        seconds: from body to answer.
    """

    items: int = 256
    body_bytes: int = 32 << 20
    buffered_bytes: int = 256 << 20
    body_seconds: float = 60.0
    seconds: float = 30.0

    @property
    def text_body_bytes(self) -> int:
        """No JSON of permitted texts needs more, escaped as \\ud83d\\ude00."""
        return min(self.body_bytes, self.items * (12 * self.text_chars + 16) + 4096)

    @property
    def commas(self) -> int:
        """No permitted JSON has more; parsing millions of them takes seconds and gigabytes."""
        return self.items * (self.text_chars + 4) + 100


class Bodies:
    """Reads request bodies, none beyond its limit and all together not beyond theirs.

    Attributes:
        held: bytes now in memory.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.held = 0

    @contextmanager
    def hold(self, request: Request, limit: int) -> Iterator[AsyncGenerator[bytes, None]]:
        """The chunks of a body of at most `limit` bytes, counted as held until the end.

        Raises:
            ApiError: a chunk does: 408 too slow, 413 too long, 415 compressed, 429 no room for it
                now, 499 the client went away.
        """
        count = 0

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal count
            too_long = ApiError(413, "body_too_large", f"the body has more than {limit} bytes")
            if int(request.headers.get("content-length", 0)) > limit:
                raise too_long
            encoding = request.headers.get("content-encoding", "identity")
            if encoding.lower() != "identity":
                message = f"Content-Encoding {encoding[:40]!r}: expected a body without"
                raise ApiError(415, "content_encoding", message)
            deadline = time.monotonic() + self.limits.body_seconds
            more = True
            while more:
                left = deadline - time.monotonic()
                try:
                    received = await asyncio.wait_for(request.receive(), max(left, 0.001))
                except asyncio.TimeoutError:
                    seconds = f"{self.limits.body_seconds:g} s"
                    message = f"the body did not arrive within {seconds}"
                    raise ApiError(408, "body_timeout", message) from None
                if received["type"] == "http.disconnect":
                    raise client_gone()
                chunk, more = received.get("body", b""), received.get("more_body", False)
                if count + len(chunk) > limit:
                    raise too_long
                if self.held + len(chunk) > self.limits.buffered_bytes:
                    message = "too many bytes of requests are in work: try again"
                    raise ApiError(429, "busy", message, headers={"Retry-After": "1"})
                count += len(chunk)
                self.held += len(chunk)
                yield chunk

        try:
            yield chunks()
        finally:
            self.held -= count


async def disconnected(request: Request) -> None:
    """Wait until a request's client has gone; its body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_gone() -> ApiError:
    """The client closed the connection; nobody reads this answer (nginx's status for it)."""
    return ApiError(499, "client_closed_request", "the client went away")


class ApiKeys:
    """Keys that clients must show; with none, all are let in.

    Attributes:
        everywhere: they are asked for at /metrics, /docs and /openapi.json too.
    """

    def __init__(self, keys: list[str], everywhere: bool = False):
        for key in keys:
            if not key.isascii() or not key.isprintable() or " " in key or len(key) < 16:
                raise UserError(
                    "an API key has fewer than 16 characters, or other than printable ASCII "
                    "ones: make one with `openssl rand -hex 32`"
                )
        if everywhere and not keys:
            raise UserError(
                f"--key-everywhere without a key: give --api-key-file, or set {KEY_VARIABLE}"
            )
        self._keys = [key.encode() for key in keys]
        self.everywhere = everywhere

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def read(cls, file: str | None = None, everywhere: bool = False) -> ApiKeys:
        """From a file, one key a line, else from the environment variable ERNIE_VIL2_API_KEY.

        Never from the command line, which every user of the machine can read; a file that others
        can read draws a warning.

        Raises:
            UserError: no file, no key in it, or a key that is too short.
        """
        if file is None:
            keys = [os.environ[KEY_VARIABLE]] if KEY_VARIABLE in os.environ else []
            return cls(keys, everywhere)
        try:
            keys = Path(file).read_text(encoding="utf-8").split()
            mode = stat.S_IMODE(os.stat(file).st_mode)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"API key file {file} cannot be read: {error}") from None
        if not keys:
            raise UserError(f"API key file {file} is empty: expected one key a line")
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            log.warning(
                "API key file %s can be read by others (mode %o): chmod 600 %s", file, mode, file
            )
        return cls(keys, everywhere)

    def check(self, request: Request) -> None:
        """Raises ApiError 401 unless `Authorization: Bearer KEY` or `X-API-Key: KEY` is right."""
        if not self:
            return
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = request.headers.get("x-api-key", "")
        if scheme.lower() == "bearer":
            shown = bearer.strip()
        # In constant time: how long it takes must not tell how much of a guess was right.
        if not any(hmac.compare_digest(shown.encode(), key) for key in self._keys):
            message = "no valid API key: send Authorization: Bearer KEY, or X-API-Key: KEY"
            raise ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


class KeyFirst:
    """ASGI middleware: asks for a key at some paths, and below them."""

    def __init__(self, app, keys: ApiKeys, paths: tuple[str, ...]):
        self.app, self.keys = app, keys
        self.paths = paths

    async def __call__(self, scope, receive, send) -> None:
        path = scope.get("path", "")
        if any(path == guarded or path.startswith(f"{guarded}/") for guarded in self.paths):
            try:
                self.keys.check(Request(scope))
            except ApiError as error:
                return await error.response()(scope, receive, send)
        await self.app(scope, receive, send)
