"""uvicorn, which ends gracefully on SIGTERM, with our protocol."""

from __future__ import annotations

import functools
import logging
import socket
import time
from collections.abc import Callable
from typing import Protocol

import h11
import uvicorn

from ernie_vil2.errors import UserError
from ernie_vil2.serving.web.connections import ACCEPTED_AT_ONCE, ConnectionLimits, Http, Places
from ernie_vil2.serving.web.errors import ApiError

log = logging.getLogger("ernie_vil2")

_BACKLOG = 1024  # connections that wait to be accepted


class Served(Protocol):
    """What a server asks of the service behind its application.

    Attributes:
        draining: set to refuse new requests.
    """

    draining: bool

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""

    @property
    def failure(self) -> BaseException | None:
        """Why they never will be, or None."""

    @property
    def in_flight(self) -> int:
        """Requests being answered."""


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: requests in work are answered, new ones get 503; then it ends.

    A second signal, or `drain_seconds`, ends it at once. It ends too when the service fails. In a
    thread that is not the main one, which gets no signals, call `handle_exit` (from any thread).
    """

    def __init__(self, config: uvicorn.Config, service: Served, drain_seconds: float):
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._drain_until: float | None = None
        self._announced = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        # asyncio takes one number for what waits and for what is accepted at a time.
        for listener in sockets or []:
            listener.listen(_BACKLOG)

    def handle_exit(self, sig=None, frame=None) -> None:
        if self._drain_until is None:
            self._service.draining = True
            self._drain_until = time.monotonic() + self._drain_seconds
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.failure is not None:
            self.should_exit = True
        elif self._service.ready and not self._announced:
            self._announced = True
            log.info("ready")
        if self._drain_until is not None:
            drained = self._service.in_flight == 0
            self.should_exit |= drained or time.monotonic() > self._drain_until
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any free one.

    Raises:
        UserError: the port is taken, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        # Not create_server(): asyncio sends without delay only where the protocol is given.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def make_server(
    app,
    service: Served,
    connections: ConnectionLimits,
    drain_seconds: float,
    access_log: bool = False,
    error: Callable[[ApiError], bytes] = ApiError.json,
) -> Server:
    """A server of an ASGI application: call `run(sockets=[listener])`.

    Args:
        app: the application.
        service: what stands behind it.
        connections: their limits.
        drain_seconds: that requests in work have on SIGTERM.
        access_log: log every request.
        error: the body of what is refused before the application sees it.
    """
    if tuple(map(int, h11.__version__.split(".")[:2])) < (0, 16):
        log.warning("h11 %s lets requests be smuggled: pip install 'h11>=0.16'", h11.__version__)
    config = uvicorn.Config(
        app,
        # uvicorn calls it, so it need not be a class
        http=functools.partial(Http, places=Places(connections), error=error),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=access_log,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=int(connections.idle_seconds),
        timeout_graceful_shutdown=3,  # to hand over answers that are done
    )
    return Server(config, service, drain_seconds)
