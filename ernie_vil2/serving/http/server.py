"""uvicorn, which ends gracefully on SIGTERM and closes connections that do nothing."""

from __future__ import annotations

import logging
import socket
import time

import h11
import uvicorn
from pydantic_core import to_json
from uvicorn.protocols.http.h11_impl import H11Protocol

from ernie_vil2.errors import UserError
from ernie_vil2.serving.http.schemas import ApiError

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1000
IDLE_SECONDS = 30.0  # between requests, to send headers, to read an answer


class Http(H11Protocol):
    """uvicorn's HTTP/1.1 with a time limit on all that is not a request in work: a silent client,
    headers that trickle in, a body that goes on after its answer, an answer that nobody reads.
    """

    _guard = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(ApiError(503, "too_many_connections", "too many connections: try again"))
            transport.close()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc) -> None:
        super().connection_lost(exc)
        if self._guard:
            self._guard.cancel()

    def send_400_response(self, msg: str) -> None:
        # A body may turn bad when its answer is already on the way.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(ApiError(400, "bad_http", msg))
        self.transport.close()

    def _watch(self) -> None:
        in_work = self.cycle is not None and not self.cycle.response_complete
        if in_work and self._guard:
            self._guard.cancel()
            self._guard = None
        elif not in_work and not self._guard:
            self._guard = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def _refuse(self, error: ApiError) -> None:
        headers = [("content-type", "application/json"), ("connection", "close")]
        response = h11.Response(status_code=error.status, headers=headers)
        for event in (response, h11.Data(data=to_json(error.body())), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: requests in work are answered, new ones get 503; then it ends.

    A second signal, or `drain_seconds`, ends it at once. It ends too when the model cannot be
    loaded.
    """

    def __init__(self, config: uvicorn.Config, service, drain_seconds: float):
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._drain_until: float | None = None
        self._announced = False

    def handle_exit(self, sig, frame) -> None:
        if self._drain_until is None:
            self._service.draining = True
            self._drain_until = time.monotonic() + self._drain_seconds
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        batcher = self._service.batcher
        if batcher.error is not None:
            self.should_exit = True
        elif batcher.ready and not self._announced:
            self._announced = True
            log.info("ready")
        if self._drain_until is not None:
            drained = self._service.in_flight == 0
            self.should_exit |= drained or time.monotonic() > self._drain_until
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any free one. Raises UserError: taken, or no such address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        # Not create_server(): asyncio sends without delay only where the protocol is given.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def serve(app, service, listener: socket.socket, drain_seconds: float, access_log: bool) -> None:
    """Answer until a signal comes. Raises what loading the model raised."""
    config = uvicorn.Config(
        app,
        http=Http,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=3,  # to hand over answers that are done
    )
    Server(config, service, drain_seconds).run(sockets=[listener])
    if service.batcher.error is not None:
        raise service.batcher.error
