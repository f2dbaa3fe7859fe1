"""The routes of a collection: search in it, and its pictures by id."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from ernie_vil2.serving.http.find import schemas
from ernie_vil2.serving.http.find.files import TYPES
from ernie_vil2.serving.http.find.finder import Finder
from ernie_vil2.serving.http.find.hosts import check_host
from ernie_vil2.serving.http.routing import STATUSES, Responses, body_of, keyed_router
from ernie_vil2.serving.http.service import Service

_ID = Annotated[str, Path(pattern="^[0-9a-f]{20}$", description="of a picture")]
_OF_READING = (401, 404, 413, 421, 422, 429, 500, 503, 504)


def find_routes(service: Service, finder: Finder) -> APIRouter:
    """All of them."""
    router = APIRouter(dependencies=[Depends(check_host)] if finder.local else [])
    router.include_router(_search_routes(service, finder))
    router.include_router(_reading_routes(service, finder))
    return router


def _search_routes(service: Service, finder: Finder) -> APIRouter:
    router = keyed_router(service, "search", "/v1", (*STATUSES, 404, 421))

    @router.post(
        "/search",
        response_model=schemas.SearchResponse,
        openapi_extra=body_of(schemas.SearchRequest),
    )
    async def search(request: Request):
        """Pictures of the collection by words, by pictures, or by both; best first."""
        return await service.answer(
            request, schemas.SearchRequest, finder.count_items, finder.search
        )

    @router.post(
        "/similar/{id}",
        response_model=schemas.SearchResponse,
        openapi_extra=body_of(schemas.PageRequest),
    )
    async def similar_by_body(request: Request, id: _ID):
        """Pictures like one of the collection; the same as GET, with a body."""

        async def work(body: schemas.PageRequest):
            return await finder.similar(id, body), ()

        return await service.answer(request, schemas.PageRequest, lambda body: 0, work)

    return router


def _reading_routes(service: Service, finder: Finder) -> APIRouter:
    router = keyed_router(service, "search", statuses=_OF_READING)

    @router.get("/v1/similar/{id}", response_model=schemas.SearchResponse)
    async def similar(request: Request, id: _ID, page: Annotated[schemas.PageRequest, Query()]):
        """Pictures like one of the collection, without it; best first."""
        service.check_ready()
        return await service.within_time(request, finder.similar_response(id, page))

    @router.get("/v1/pictures/{id}", response_model=schemas.PictureInfo)
    async def picture(request: Request, id: _ID):
        """What is known of a picture."""
        return await service.within_time(request, finder.picture(id))

    @router.get("/v1/collection", response_model=schemas.CollectionResponse)
    async def collection(request: Request):
        """How many pictures there are, how far an index in work is, and what to filter by."""
        return await service.within_time(request, finder.collection())

    @router.get("/thumb/{id}", response_class=Response, responses=_pictures_of("image/jpeg"))
    async def thumb(request: Request, id: _ID):
        """A small JPEG of a picture, upright, without its metadata."""
        return await service.within_time(request, finder.thumb(request, id))

    @router.get("/image/{id}", response_class=Response, responses=_pictures_of(*TYPES))
    async def image(request: Request, id: _ID):
        """A picture's file as it was indexed."""
        return await service.within_time(request, finder.image(request, id))

    return router


def _pictures_of(*types: str) -> Responses:
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in types}
    return {200: {"content": content}, 304: {"description": "as the client has it"}}
