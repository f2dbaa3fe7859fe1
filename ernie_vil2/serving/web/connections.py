"""Connections of clients: how many, how long, and what counts as HTTP.

On uvicorn and h11 alone, for every HTTP server of ours.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ernie_vil2.errors import UserError
from ernie_vil2.serving.web.errors import ApiError
from ernie_vil2.serving.web.framing import Strict

ACCEPTED_AT_ONCE = 16  # sockets of one turn of the event loop: uvicorn's `backlog`
_OTHER_FILES = 32 + 3 * ACCEPTED_AT_ONCE  # opened later; sockets accepted and not yet counted
_FEWEST = 16
_LINGER_SECONDS = 2.0  # that a refused client may send on: a reset would take the answer from it
_PROBE_SECONDS = 0.5


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections a server has, and how long each may keep it waiting.

    Attributes:
        connections: at a time.
        per_address: of these, of one IPv4 address or IPv6 /64 network.
        spare: beside these, for requests to `health` alone.
        idle_seconds: between requests, or to read an answer.
        head_seconds: from a request's first byte to the end of its headers.
        health: paths.
    """

    connections: int = 1000
    per_address: int = 250
    spare: int = 16
    idle_seconds: float = 30.0
    head_seconds: float = 10.0
    health: frozenset[str] = frozenset({"/healthz", "/readyz"})


def fit_open_files(limits: ConnectionLimits) -> ConnectionLimits:
    """`limits` with no more connections than the process may have files open (`ulimit -n`).

    That number is raised as far as it may be: without a free one, asyncio's accept loop turns and
    logs for ever.

    Raises:
        UserError: so few may be open that nothing can be served.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) + limits.spare + _OTHER_FILES
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < used + limits.connections:
        soft = used + limits.connections
        soft = soft if hard == unlimited else min(soft, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != unlimited and soft < used + _FEWEST:
        raise UserError(
            f"{soft} files may be open at a time: expected at least {used + _FEWEST}, raise it "
            "with `ulimit -n`"
        )
    room = limits.connections if soft == unlimited else min(limits.connections, soft - used)
    return replace(limits, connections=room)


class Places:
    """Who has a place: the connections of one server.

    A connection without an ordinary place gets a spare one, where only health is answered; the
    oldest that has not yet asked makes room for the newest.
    """

    def __init__(self, limits: ConnectionLimits):
        self.limits = limits
        self._addresses: Counter[str] = Counter()
        self._ordinary: dict[Http, str] = {}
        self._spare: dict[Http, None] = {}  # in order of arrival

    def take(self, connection: Http, host: str) -> str | None:
        """None, or why the place is a spare one."""
        address = _network(host)
        if len(self._ordinary) >= self.limits.connections:
            reason = f"more than {self.limits.connections} connections"
        elif self._addresses[address] >= self.limits.per_address:
            reason = f"more than {self.limits.per_address} connections of your address"
        else:
            self._ordinary[connection] = address
            self._addresses[address] += 1
            return None
        if len(self._spare) >= self.limits.spare:
            oldest = next((c for c in self._spare if not c.in_work), next(iter(self._spare)))
            del self._spare[oldest]
            oldest.transport.abort()
        self._spare[connection] = None
        return reason

    def leave(self, connection: Http) -> None:
        self._spare.pop(connection, None)
        address = self._ordinary.pop(connection, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


def _network(host: str) -> str:
    """What counts as one client: an IPv6 host has a whole /64 for itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Http(H11Protocol):
    """uvicorn's HTTP/1.1 with a place, and a time limit on all that is not a request in work.

    That is a silent client, headers that trickle in, a body that goes on after its answer, an
    answer that nobody reads. What is no HTTP gets 400 and ends the connection.

    Args:
        args, kwargs: what uvicorn gives its protocol.
        places: of the server.
        error: the body of a refusal, JSON.
    """

    def __init__(
        self,
        *args,
        places: Places,
        error: Callable[[ApiError], bytes] = ApiError.json,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        # the bytes of a head, and h11's own default
        head_bytes = self.config.h11_max_incomplete_event_size or 16 * 1024
        self.conn = self._strict = Strict(h11.SERVER, head_bytes)
        self._places, self._limits, self._error = places, places.limits, error
        self._application = self.app
        self._too_many: str | None = None
        self._waiting_for: str | None = None  # "idle" or "head": what `_timer` limits
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    @property
    def in_work(self) -> bool:
        return not self._refused and self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        self._too_many = self._places.take(self, host)
        if self._too_many:
            self.app = self._health_alone
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._refused:
            return
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio has it
        """A client that sends no more may still read: its answer, or 400 for half a request."""
        if self.transport.is_closing() or self._refused:
            return None
        self.conn.receive_data(b"")
        self.handle_events()
        if not self.in_work:
            return None
        if self.conn.our_state is h11.SEND_RESPONSE and self.scope["http_version"] == "1.1":
            # The kernel of a client that has gone answers it with a reset, and we need not work.
            event = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(self.conn.send(event))
        self.loop.call_later(_PROBE_SECONDS, self._probe)
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc) -> None:
        super().connection_lost(exc)
        self._places.leave(self)
        if self._timer:
            self._timer.cancel()

    def send_400_response(self, msg) -> None:
        self._refuse(ApiError(400, "bad_http", f"no valid HTTP: {self._strict.wrong or msg}"))

    async def _health_alone(self, scope, receive, send) -> None:
        """The application of a spare place."""
        if scope["path"] not in self._limits.health:
            self._refuse(ApiError(503, "too_many_connections", f"{self._too_many}: try again"))
            return

        async def last(message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        await self._application(scope, receive, last)

    def _watch(self) -> None:
        """Limit the time of what is waited for now; bytes that arrive do not extend it."""
        if self._refused or self.transport.is_closing():
            return
        waiting_for: str | None = "idle"
        if self.in_work:
            waiting_for = None
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            waiting_for = "head"
        if waiting_for == self._waiting_for:
            return
        self._waiting_for = waiting_for
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if waiting_for:
            limits = self._limits
            seconds = limits.head_seconds if waiting_for == "head" else limits.idle_seconds
            self._timer = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._waiting_for == "head" and not self.transport.get_write_buffer_size():
            seconds = f"{self._limits.head_seconds:g} s"
            self._refuse(ApiError(408, "head_timeout", f"no end of the headers within {seconds}"))
        else:
            self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answer, if no answer is on the way, and close."""
        if self.transport.is_closing() or self._refused:
            return
        self._refused = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = self._error(error)
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=error.status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        if self.cycle is not None:  # the application gets no more of it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        self.flow.resume_reading()
        self.transport.write_eof()

    def _probe(self) -> None:
        """End a connection whose client sent its last byte, and then went away."""
        if self.transport.is_closing() or not self.in_work:
            return
        peer = self.transport.get_extra_info("socket")
        if peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(_PROBE_SECONDS, self._probe)
