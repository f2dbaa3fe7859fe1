"""The page that describes the interface: Swagger UI, served from this package."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse

FOLDER = Path(__file__).parent / "swagger_ui"
PATHS = ("/docs", "/openapi.json")


def docs_routes(title: str) -> APIRouter:
    """`/docs` and its files. Its links are relative: a proxy may put a path before them."""
    router = APIRouter(include_in_schema=False)
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},  # a page of swagger.io
    )

    @router.get("/docs")
    async def docs() -> Response:
        return Response(page.body, media_type="text/html")

    @router.get("/docs/swagger-ui-bundle.js")
    async def script() -> Response:
        return FileResponse(FOLDER / "swagger-ui-bundle.js", media_type="text/javascript")

    @router.get("/docs/swagger-ui.css")
    async def style() -> Response:
        return FileResponse(FOLDER / "swagger-ui.css", media_type="text/css")

    return router
