"""What each route of a collection does, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from pydantic_core import to_json

from ernie_vil2.errors import UserError
from ernie_vil2.search.collection import Filter, Picture
from ernie_vil2.search.progress import progress_of
from ernie_vil2.search.query import Query, parse_query
from ernie_vil2.search.results import Found, short
from ernie_vil2.search.searcher import UnknownPicture
from ernie_vil2.serving.http.endpoints import Answer
from ernie_vil2.serving.http.find.encoder import BatchedEncoder, UnknownImage
from ernie_vil2.serving.http.find.files import SIDE, Thumbnails, read_original, type_of, unchanged
from ernie_vil2.serving.http.find.gallery import Gallery, Opened
from ernie_vil2.serving.http.find.schemas import PageRequest, SearchRequest
from ernie_vil2.serving.http.inputs import JSON
from ernie_vil2.serving.http.service import Service
from ernie_vil2.serving.web.errors import ApiError

log = logging.getLogger("ernie_vil2")
_Result = TypeVar("_Result")
_THREADS = {"search": 2, "files": 4}
_WAITING = {"search": 64, "files": 512}  # at a time; beyond: 429
# A file is shown as a picture or not at all, to this page alone.
_FILE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, max-age=300",
    "Vary": "Authorization, X-API-Key",
}


class Finder:
    """The work of the routes.

    Args:
        service: whose limits and model it uses.
        gallery: the collection.
        encoder: the model, as the gallery's searcher has it.
        local: answer to this machine's own names alone.
    """

    def __init__(
        self, service: Service, gallery: Gallery, encoder: BatchedEncoder, local: bool = False
    ):
        self.local = local
        self._gallery, self._encoder = gallery, encoder
        self._limits, self._bodies = service.limits, service.bodies
        self._thumbnails = Thumbnails(service.limits)
        self._pools = {name: ThreadPoolExecutor(n, name) for name, n in _THREADS.items()}
        self._waiting = dict.fromkeys(_THREADS, 0)
        self._closing = threading.Event()

    def start(self, ready: Callable[[], bool]) -> None:
        """Once the model is at work, learn what the first search would wait for."""

        def learn() -> None:
            while not ready():
                if self._closing.wait(0.1):
                    return
            try:
                self._gallery.use(Opened.learn)
            except Exception as error:  # a search will say it to whom it concerns
                log.warning("%s: %s", self._gallery.uri, error)

        threading.Thread(target=learn, name="learn", daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._gallery.close()

    # -- Search ------------------------------------------------------------------------------------

    def count_items(self, body: SearchRequest) -> int:
        """How many items a search puts into the queue of the model."""
        return len(body.images) + len(_written(body).terms)

    async def search(self, body: SearchRequest) -> Answer:
        weights = body.weights or [1.0] * len(body.images)
        if len(weights) != len(body.images):
            message = f"{len(weights)} weights for {len(body.images)} images: expected one for each"
            raise ApiError(422, "bad_query", message)
        if not all(weights):
            raise ApiError(422, "bad_query", "a weight of 0: leave that image out")
        names = await self._encoder.add_images(body.images)
        query = _written(body)
        for name, weight in zip(names, weights):
            query += Query.of_picture(name.encode(), "picture", weight)
        if not query.terms:
            raise ApiError(422, "empty_query", "neither words nor a picture to search for")
        found = await self._found(query, body)
        return {**found.to_json(), "images": names}, ()

    async def similar(self, id: str, body: PageRequest) -> dict[str, Any]:
        found = await self._found(Query.like(id), body)
        return {**found.to_json(), "images": []}

    async def similar_response(self, id: str, body: PageRequest) -> Response:
        return _json(await self.similar(id, body))

    async def _found(self, query: Query, body: PageRequest) -> Found:
        """A page of hits."""
        where = Filter(body.folder or None, body.after, body.before, tuple(body.tags))

        def work(opened: Opened) -> Found:
            return opened.search(query, body.k, body.offset, where, body.minimum, body.fold)

        try:
            return await self._in_pool("search", self._gallery.use, work)
        except UnknownPicture as error:
            raise ApiError(404, "no_such_picture", str(error)) from None
        except UnknownImage as error:
            raise ApiError(422, "unknown_image", str(error)) from None
        except UserError as error:
            raise ApiError(422, "bad_query", str(error)) from None

    # -- The collection and its pictures -----------------------------------------------------------

    async def collection(self) -> Response:
        def work(opened: Opened) -> dict[str, Any]:
            count = opened.collection.count()
            summary = opened.summaries.latest(count)
            return {
                "name": self._gallery.uri,
                "count": count,
                "indexing": progress_of(opened.collection),
                "folders": _counted(summary.folders) if summary else [],
                "tags": _counted(summary.tags) if summary else [],
                "oldest": summary.oldest if summary else None,
                "newest": summary.newest if summary else None,
                "complete": summary is not None,
            }

        return _json(await self._in_pool("search", self._gallery.use, work))

    async def picture(self, id: str) -> Response:
        return _json(short(await self._in_pool("files", self._gallery.picture, id)))

    async def thumb(self, request: Request, id: str) -> Response:
        return await self._file(request, id, f"-{SIDE}", self._thumb)

    async def image(self, request: Request, id: str) -> Response:
        return await self._file(request, id, "", self._image)

    async def _file(
        self,
        request: Request,
        id: str,
        suffix: str,
        make: Callable[[Picture, dict[str, str]], Awaitable[Response]],
    ) -> Response:
        """A picture's file as `make` gives it, or 304 where the client has it.

        Args:
            suffix: of its tag, which tells what is made of a file from the file.
        """
        for fresh in (False, True):
            picture = await self._in_pool("files", self._gallery.picture, id, fresh)
            headers = {**_FILE_HEADERS, "ETag": f'"{picture.sha256[:32]}{suffix}"'}
            if await self._is_known(request, picture, headers["ETag"]):
                return Response(status_code=304, headers=headers)
            try:
                return await make(picture, headers)
            except ApiError as error:
                # it may be that the index knows of the change, and we did not ask
                if fresh or error.status != 404:
                    raise
        raise AssertionError

    async def _thumb(self, picture: Picture, headers: dict[str, str]) -> Response:
        jpeg = await self._in_pool("files", self._thumbnails.of, picture)
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def _image(self, picture: Picture, headers: dict[str, str]) -> Response:
        name = quote(picture.path.rpartition("/")[2], safe="")
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}"
        self._hold(picture.size)
        held = True
        try:
            data = await self._in_pool("files", read_original, picture)
            response = Response(data, media_type=type_of(data), headers=headers)
            # it counts as long as its bytes are there, however slow the client reads
            weakref.finalize(response, self._release, picture.size)
            held = False
            return response
        finally:
            if held:
                self._release(picture.size)

    async def _is_known(self, request: Request, picture: Picture, tag: str) -> bool:
        """Whether the client has these bytes, and may go on to show them."""
        known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
        return tag in known and await self._in_pool("files", unchanged, picture)

    def _hold(self, size: int) -> None:
        """Count the bytes of a file among those of all requests. Raises ApiError 413, 429."""
        most = self._limits.buffered_bytes
        if size > most:
            message = f"the file has {size} bytes, at most {most} are sent"
            raise ApiError(413, "file_too_large", message)
        if self._bodies.held + size > most:
            message = "too many bytes of requests are in work: try again"
            raise ApiError(429, "busy", message, headers={"Retry-After": "1"})
        self._bodies.held += size

    def _release(self, size: int) -> None:
        self._bodies.held -= size

    async def _in_pool(self, pool: str, function: Callable[..., _Result], *args: Any) -> _Result:
        """`function(*args)` in a thread of its kind. Raises ApiError 429: too many wait."""
        if self._waiting[pool] >= _WAITING[pool]:
            message = "too many searches or pictures are in work: try again"
            raise ApiError(429, "busy", message, headers={"Retry-After": "1"})
        self._waiting[pool] += 1
        future = asyncio.get_running_loop().run_in_executor(self._pools[pool], function, *args)
        # not when we stop waiting: a thread cannot be stopped
        future.add_done_callback(lambda _: self._done(pool))
        return await future

    def _done(self, pool: str) -> None:
        self._waiting[pool] -= 1


def _written(body: SearchRequest) -> Query:
    """What the query's words say."""
    if not body.query.strip():
        return Query(())
    try:
        return parse_query(body.query)
    except UserError as error:
        raise ApiError(422, "bad_query", str(error)) from None


def _counted(named: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "count": count} for name, count in named]


def _json(answer: dict[str, Any]) -> Response:
    return Response(to_json(answer), media_type=JSON)
