"""HTTP for the Paddle Serving service: the JSON of Paddle Serving's own gateway, with limits.

Paddle Serving's gateway reads bodies of any size into memory (three of 100 MB left it with 1.3 GB),
cannot return more than 4 MiB, answers errors with 200 and listens on every interface. This one has
connections, bodies and health checks in common with our other HTTP server.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from paddle_serving_server.pipeline.proto import pipeline_service_pb2 as messages
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ernie_vil2.serving.items import json_kind
from ernie_vil2.serving.paddle_serving.request import BAD_REQUEST, TOO_LARGE
from ernie_vil2.serving.paddle_serving.service import NAME, EmbeddingService
from ernie_vil2.serving.paddle_serving.settings import Limits
from ernie_vil2.serving.paddle_serving.turns import Busy, Gone
from ernie_vil2.serving.web import limits as http
from ernie_vil2.serving.web.connections import ConnectionLimits, fit_open_files
from ernie_vil2.serving.web.errors import ApiError, draining
from ernie_vil2.serving.web.server import make_server

PATH = f"/{NAME}/prediction"
_CLOSED = 3001  # Paddle Serving's err_no while it stops
_HTTP_STATUS = {0: 200, BAD_REQUEST: 400, TOO_LARGE: 413, _CLOSED: 503}
_PARSED_AT_ONCE = 2  # bodies: JSON is read by one thread at a time anyhow
_RPC_CONNECTIONS = 256
_STUCK = 4  # times `limits.seconds`: as long nothing may be done while there is work


def connection_limits(limits: Limits) -> tuple[ConnectionLimits, int]:
    """The limits of HTTP, and how many connections gRPC may have.

    Fewer of both where few files may be open (`ulimit -n`).

    Raises:
        UserError: too few.
    """
    wanted = limits.connections + _RPC_CONNECTIONS
    found = fit_open_files(
        ConnectionLimits(
            connections=wanted,
            per_address=limits.per_address,
            idle_seconds=limits.seconds,
            head_seconds=min(10, limits.seconds),
        )
    )
    rpc = max(1, found.connections * _RPC_CONNECTIONS // wanted)
    return replace(found, connections=found.connections - rpc), rpc


class Front:
    """Serves `service` on a listening socket, in a thread of its own: `start`, then `drain`.

    Attributes:
        draining: set it to refuse new requests.
        in_flight: requests being answered.
        in_work: of these, the ones whose body has arrived.
    """

    ready = True  # for the server: the model was loaded and verified before
    failure: BaseException | None = None

    def __init__(
        self,
        listener: socket.socket,
        service: EmbeddingService,
        connections: ConnectionLimits,
        drain_seconds: float,
    ):
        self.service, self.limits = service, service.limits
        self.draining = False
        self.in_flight = 0
        self.in_work = 0
        self.pool = ThreadPoolExecutor(2 * service.turns.most, "request")
        self.parsing = threading.BoundedSemaphore(_PARSED_AT_ONCE)
        self.bodies = http.Bodies(
            http.Limits(
                body_bytes=self.limits.body_mb << 20,
                buffered_bytes=self.limits.bodies_mb << 20,
                body_seconds=self.limits.seconds,
            )
        )
        self.server = make_server(self.app(), self, connections, drain_seconds, error=_error_json)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), name="http")

    def start(self) -> None:
        self.thread.start()

    def drain(self) -> None:
        """Refuse new requests, and wait for the answers to those at hand."""
        self.server.handle_exit()
        self.thread.join()

    def app(self) -> Starlette:
        # each is given the kind of error that it stands for
        refusals: dict[Any, Any] = {
            ApiError: _refused,
            HTTPException: _no_page,
            Exception: _failed,
        }
        return Starlette(
            routes=[
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                # the last part of the path is free in Paddle Serving
                Route(f"/{NAME}/{{method:path}}", self.predict, methods=["POST"]),
            ],
            exception_handlers=refusals,
        )

    async def healthz(self, request: Request) -> Response:
        """Whether the process is well; if not, restart it."""
        if self.service.turns.stuck(_STUCK * self.limits.seconds):
            raise ApiError(503, "stuck", "the model does not answer")
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Whether requests are taken."""
        self.check_ready()
        return _json({"status": "ready"})

    def check_ready(self) -> None:
        """Raises ApiError 503: the service ends."""
        if self.draining:
            raise draining("service")

    async def predict(self, request: Request) -> Response:
        self.check_ready()
        self.check_length(request)
        self.in_flight += 1
        try:
            with self.bodies.hold(request, self.limits.body_mb << 20) as chunks:
                body = bytearray()
                async for chunk in chunks:
                    body += chunk
                return await self.answer(request, body)
        finally:
            self.in_flight -= 1

    def check_length(self, request: Request) -> None:
        """Raises ApiError: 411 no Content-Length, 413 above the limit."""
        length, most = request.headers.get("content-length"), self.limits.body_mb << 20
        if length is None:
            headers = {"Connection": "close"}
            raise ApiError(411, "no_length", "a Content-Length is needed", headers=headers)
        if int(length) > most:  # h11 has checked that it is a number of few digits
            message = f"a body of {length} bytes, at most {most}: send less"
            raise ApiError(413, "body_too_large", message)

    async def answer(self, request: Request, body: bytearray) -> Response:
        if self.in_work >= 2 * self.service.turns.most:
            raise _busy("too many requests are in work: try again")
        self.in_work += 1
        gone = threading.Event()
        watch = asyncio.ensure_future(_set_when_gone(request, gone))
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.pool, self.work, body, gone.is_set
            )
        except Busy as error:
            raise _busy(str(error)) from None
        except Gone:
            raise http.client_gone() from None
        finally:
            watch.cancel()
            self.in_work -= 1

    def work(self, body: bytearray, gone: Callable[[], bool]) -> Response:
        with self.parsing:
            parsed = _parse(body, self.limits)
        body.clear()
        answer = self.service.answer(parsed, gone)
        content = {
            "err_no": answer.err_no,
            "err_msg": answer.err_msg,
            "key": list(answer.key),
            "value": list(answer.value),
            "tensors": [],
        }
        return _json(content, _HTTP_STATUS.get(answer.err_no, 500))


def _parse(body: bytearray, limits: Limits) -> messages.Request:
    """The request in a body. Raises ApiError 400."""

    def bad(message: str) -> ApiError:
        return ApiError(400, "bad_request", message)

    if body.count(b",") > limits.commas:
        raise bad(f"the body has more than {limits.commas} commas")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is no JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise bad(f'the body is {json_kind(content)}: expected an object with "key" and "value"')
    for name in ("key", "value"):
        strings = content.get(name)
        if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
            raise bad(f'"{name}" should be a list of strings')
    logid = content.get("logid", 0)
    if type(logid) is not int or not -(1 << 63) <= logid < 1 << 63:
        raise bad('"logid" should be a whole number')
    try:
        return messages.Request(key=content["key"], value=content["value"], logid=logid)
    except (ValueError, UnicodeError):
        raise bad("a string is no valid Unicode: it holds half of a surrogate pair") from None


async def _set_when_gone(request: Request, gone: threading.Event) -> None:
    await http.disconnected(request)
    gone.set()


# -- Answers other than embeddings -----------------------------------------------------------------


def _busy(message: str) -> ApiError:
    return ApiError(503, "busy", message, headers={"Retry-After": "1"})


def _json(content: dict, status: int = 200, headers: dict | None = None) -> Response:
    data = json.dumps(content, ensure_ascii=False).encode()
    return Response(data, status, headers, "application/json")


def _error_json(error: ApiError) -> bytes:
    """In the form of Paddle Serving's answers."""
    number = TOO_LARGE if error.status == 413 else BAD_REQUEST
    content = {"err_no": number, "err_msg": error.message, "key": [], "value": [], "tensors": []}
    return json.dumps(content, ensure_ascii=False).encode()


async def _refused(request: Request, error: ApiError) -> Response:
    status = 503 if error.status == 429 else error.status  # `Bodies` is full
    return Response(_error_json(error), status, error.headers, "application/json")


async def _no_page(request: Request, error: HTTPException) -> Response:
    message = f"no page {request.scope['path'][:60]!r}: POST to {PATH}, or GET /healthz"
    if error.status_code != 404:
        message = f"{error.detail}: POST to {PATH}, or GET /healthz"
    return await _refused(request, ApiError(error.status_code, "", message, headers=error.headers))


async def _failed(request: Request, error: Exception) -> Response:
    # Starlette raises it again, so that it is logged
    return await _refused(request, ApiError(500, "internal", "see the service's log"))
