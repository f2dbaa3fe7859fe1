"""What a request is refused with; knows nothing of FastAPI and of models."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


class ApiError(Exception):
    """An answer other than 200: HTTP status, a code for programs, one line for people.

    Attributes:
        status, code, message: of the answer.
        index: of the item or field entry that it is about.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        index: int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.index = status, code, message, index
        self.headers = headers or {}

    def body(self) -> dict:
        index = {} if self.index is None else {"index": self.index}
        return {"error": {"code": self.code, "message": self.message, **index}}

    def json(self) -> bytes:
        return json.dumps(self.body(), separators=(",", ":")).encode()

    def response(self) -> Response:
        return Response(self.json(), self.status, self.headers, "application/json")


def draining(name: str) -> ApiError:
    """The refusal of a server that ends, called `name`."""
    headers = {"Connection": "close", "Retry-After": "1"}
    return ApiError(503, "draining", f"the {name} is shutting down", headers=headers)
