"""A model behind HTTP: how every request is read, admitted, timed and answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from ernie_vil2.artefact.folder import Artefact
from ernie_vil2.serving.http.batcher import QueueFull
from ernie_vil2.serving.http.embedder import Embedder
from ernie_vil2.serving.http.endpoints import Answer
from ernie_vil2.serving.http.inputs import FORM, JSON, read_fields, validate
from ernie_vil2.serving.http.metrics import Metrics
from ernie_vil2.serving.items import ItemError
from ernie_vil2.serving.web.errors import ApiError, draining
from ernie_vil2.serving.web.limits import ApiKeys, Bodies, Limits, client_gone, disconnected

_Body = TypeVar("_Body", bound=BaseModel)


class Service:
    """An application's state: model, limits, and whether requests are taken.

    Args:
        artefact: the exported model.
        load: gives the Predictor of `artefact`; called in a thread of its own, once the
            application has started.
        limits: of items, of requests, and of their time.
        keys: that clients must show.
        batching: `max_batch`, `max_wait` and `max_queue` of `Embedder`.

    Attributes:
        draining: set it to refuse new requests.
    """

    def __init__(
        self,
        artefact: Artefact,
        load: Callable,
        limits: Limits,
        keys: ApiKeys,
        **batching,
    ):
        self.artefact = artefact
        self.limits = limits
        self.keys = keys
        self.metrics = Metrics()
        self.bodies = Bodies(limits)
        self.embedder = Embedder(artefact, load, limits, self.metrics, **batching)
        self.batcher = self.embedder.batcher
        self.draining = False
        self.metrics.buffered.set_function(lambda: self.bodies.held)
        self.metrics.queued.set_function(lambda: self.batcher.waiting)
        self.metrics.admitted.set_function(lambda: self.batcher.admitted)
        self.metrics.ready.set_function(lambda: self.batcher.ready and not self.draining)

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self.metrics.in_flight

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and at work."""
        return self.batcher.ready

    @property
    def failure(self) -> BaseException | None:
        """What loading the model raised."""
        return self.batcher.error

    def check_ready(self) -> None:
        """Raises ApiError 503: the model is being loaded, or the server ends."""
        if self.draining:
            raise draining("server")
        if not self.batcher.ready:
            message = "the model is being loaded"
            raise ApiError(503, "loading", message, headers={"Retry-After": "1"})

    async def answer(
        self,
        request: Request,
        model: type[_Body],
        count: Callable[[_Body], int],
        work: Callable[[_Body], Awaitable[Answer]],
    ) -> Response:
        """Read, check, admit and do one request, within its time.

        Args:
            request: whose body is not yet read.
            model: of the body.
            count: how many items a body puts into the queue.
            work: gives the answer to a body.
        """
        self.check_ready()
        with_images = "images" in model.model_fields
        kinds = (JSON, FORM) if with_images else (JSON,)
        limit = self.limits.body_bytes if with_images else self.limits.text_body_bytes
        with self.bodies.hold(request, limit) as chunks:
            fields = await read_fields(request, chunks, kinds)
            return await self.within_time(request, self._do(model, fields, count, work))

    async def _do(
        self,
        model: type[_Body],
        fields: bytearray | dict,
        count: Callable[[_Body], int],
        work: Callable[[_Body], Awaitable[Answer]],
    ) -> Response:
        kind = "image" if "images" in model.model_fields else "text"
        parsed = await self.embedder.in_pool(kind, validate, model, fields, self.limits)
        del fields
        items = count(parsed)
        if items > self.limits.items:
            message = f"{items} items, at most {self.limits.items} are taken"
            raise ApiError(422, "too_many_items", message)
        try:
            with self.batcher.admit(items):
                answer, outcomes = await work(parsed)
        except QueueFull as full:
            headers = {"Retry-After": str(min(60, math.ceil(full.retry_after)))}
            raise ApiError(429, "queue_full", str(full), headers=headers) from None
        status = 200
        errors = [outcome for outcome in outcomes if isinstance(outcome, ItemError)]
        if errors and len(errors) == len(outcomes):
            status, answer = 422, {"error": errors[0].at(0), **answer}
        content = await self.embedder.in_pool("text", to_json, answer)
        return Response(content, status, media_type=JSON)

    async def within_time(self, request: Request, work: Awaitable[Response]) -> Response:
        """`work`'s result; it is cancelled when its time is up or the client has gone."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request))
        try:
            done, _ = await asyncio.wait(
                {task, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            if gone in done:
                raise client_gone()
            message = f"no answer within {self.limits.seconds:g} s: the server is overloaded"
            raise ApiError(504, "timeout", message, headers={"Retry-After": "1"})
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.wait({task, gone})  # its place in the queue is free again
