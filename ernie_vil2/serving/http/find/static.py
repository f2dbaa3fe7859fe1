"""The page that searches, and its files, which this package brings: no network, no build step."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from starlette.responses import FileResponse, PlainTextResponse

from ernie_vil2.serving.web.errors import ApiError

FOLDER = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css"}
# Names of files are anybody's to choose: the browser itself sees to it that none of them can become
# a program, by whatever mistake of the page (trusted types: no text is taken for markup).
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # with the tag of the file: a newer server brings newer ones
}
WITHOUT = (
    "ERNIE-ViL 2.0: /docs describes the interface; start the server with --db COLLECTION, "
    "and here is a page that searches its pictures\n"
)


def page_routes() -> APIRouter:
    """`/` and its files. Its links are relative: a proxy may put a path before them."""
    router = APIRouter(include_in_schema=False)
    # by these names alone: no path of a request ever reaches the disk
    files = {file.name: file for file in FOLDER.iterdir() if file.suffix in _TYPES}

    @router.get("/")
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", media_type="text/html", headers=HEADERS)

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "not_found", "Not Found")
        file = files[name]
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=HEADERS)

    return router


def no_page_routes() -> APIRouter:
    """`/` of a server without a collection: a line."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def nothing() -> Response:
        return PlainTextResponse(WITHOUT)

    return router
