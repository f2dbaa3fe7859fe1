"""What routes have in common: the key, documented refusals, bodies that we read ourselves."""

from __future__ import annotations

from typing import Any, Union

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from ernie_vil2.serving.http import schemas
from ernie_vil2.serving.http.inputs import FORM, JSON
from ernie_vil2.serving.http.service import Service

Responses = dict[Union[int, str], dict[str, Any]]  # of a route, beside the good one
STATUSES = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)  # of a route with a body


def keyed_router(
    service: Service, tag: str, prefix: str = "", statuses: tuple[int, ...] = STATUSES
) -> APIRouter:
    """A router whose routes ask for the key, where the server has keys."""

    async def authorised(request: Request) -> None:
        service.keys.check(request)

    dependencies = [Depends(authorised)]
    if service.keys:
        dependencies.append(Depends(HTTPBearer(auto_error=False)))
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        dependencies=dependencies,
        responses={status: {"model": schemas.ErrorResponse} for status in statuses},
    )


def body_of(model: type[BaseModel]) -> dict:
    """What OpenAPI says of a request's body.

    FastAPI is not told of it: `Service.answer` reads it within limits, and parses it off the event
    loop.
    """
    schema = model.model_json_schema()
    content = {JSON: {"schema": schema}}
    if "images" in schema["properties"]:
        form = model.model_json_schema()
        form["properties"]["images"]["items"] = {"type": "string", "format": "binary"}
        form["properties"]["images"].pop("examples", None)
        content[FORM] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}
