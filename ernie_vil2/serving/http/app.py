"""The HTTP interface: FastAPI over an exported model. `tools/serve.py` runs it.

A request's form is judged as a whole (4xx); the content of a list's item by itself: one bad image
does not take the answer from the others. Such an answer is 200 if any item is good, else 422.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

import ernie_vil2
from ernie_vil2.serving.http import docs, schemas
from ernie_vil2.serving.http.endpoints import Endpoints
from ernie_vil2.serving.http.find.finder import Finder
from ernie_vil2.serving.http.find.routes import find_routes
from ernie_vil2.serving.http.find.static import no_page_routes, page_routes
from ernie_vil2.serving.http.inputs import refusal
from ernie_vil2.serving.http.metrics import Measured
from ernie_vil2.serving.http.routing import Responses, body_of, keyed_router
from ernie_vil2.serving.http.service import Service
from ernie_vil2.serving.web.errors import ApiError
from ernie_vil2.serving.web.limits import KeyFirst

DESCRIPTION = """Embeddings of texts and images in one space, their similarity, and zero-shot
classification. Every error has one form: `{"error": {"code", "message", "index"}}`. Images are
sent as base64 in JSON, or as files of a multipart form with the same field names, a list's field
repeated. The server fetches no path and no URL."""


def create_app(service: Service, finder: Finder | None = None) -> FastAPI:
    """The application; its start loads the model, its end closes the batcher.

    Args:
        service: the model.
        finder: of a collection of pictures, to search in them; None: the model alone.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.batcher.start()
        if finder is not None:
            finder.start(lambda: service.ready)
        yield
        service.embedder.close(timeout=1.0)
        if finder is not None:
            finder.close()

    app = FastAPI(
        title="ERNIE-ViL 2.0",
        version=ernie_vil2.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    if service.keys.everywhere:
        app.add_middleware(KeyFirst, keys=service.keys, paths=("/metrics", *docs.PATHS))
    app.add_middleware(Measured, metrics=service.metrics)
    app.include_router(_model_routes(service))
    app.include_router(_operation_routes(service))
    app.include_router(docs.docs_routes(app.title))
    if finder is None:
        app.include_router(no_page_routes())
    else:
        app.include_router(find_routes(service, finder))
        app.include_router(page_routes())

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        return refusal(error.errors(), skip=1).response()  # "path" or "query"

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return ApiError(
            error.status_code, code, str(error.detail), headers=error.headers
        ).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # Starlette raises it again, so that uvicorn logs it.
        return ApiError(500, "internal", "see the server's log").response()

    return app


def _operation_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["operation"])
    not_well: Responses = {503: {"model": schemas.ErrorResponse}}

    @router.get("/healthz", response_model=schemas.Status, responses=not_well)
    async def healthz():
        """Whether the process is well; if not, restart it."""
        if service.batcher.stuck(4 * service.limits.seconds):
            raise ApiError(503, "stuck", "the model's thread does not answer")
        return {"status": "ok"}

    @router.get("/readyz", response_model=schemas.Status, responses=not_well)
    async def readyz():
        """Whether requests are taken: the model is loaded and gave its golden vectors."""
        service.check_ready()
        return {"status": "ready"}

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
    )
    async def metrics():
        """For Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _model_routes(service: Service) -> APIRouter:
    requests = schemas.Requests(service.limits.items)
    endpoints = Endpoints(service.embedder, service.artefact)

    router = keyed_router(service, "model", "/v1")

    @router.post(
        "/embed/text",
        response_model=schemas.EmbedResponse,
        openapi_extra=body_of(requests.Texts),
    )
    async def embed_text(request: Request):
        """Embeddings of texts; beyond the model's length a text is cut."""
        return await service.answer(request, requests.Texts, endpoints.count, endpoints.embed_text)

    @router.post(
        "/embed/image",
        response_model=schemas.EmbedResponse,
        openapi_extra=body_of(requests.Images),
    )
    async def embed_image(request: Request):
        """Embeddings of images: JPEG, PNG, GIF, BMP, PPM, WebP or TIFF."""
        return await service.answer(
            request, requests.Images, endpoints.count, endpoints.embed_image
        )

    @router.post(
        "/similarity",
        response_model=schemas.SimilarityResponse,
        openapi_extra=body_of(requests.Similarity),
    )
    async def similarity(request: Request):
        """Each text with each image."""
        return await service.answer(
            request, requests.Similarity, endpoints.count, endpoints.similarity
        )

    @router.post(
        "/classify",
        response_model=schemas.ClassifyResponse,
        openapi_extra=body_of(requests.Classify),
    )
    async def classify(request: Request):
        """Which of some labels, or of the exported classes, fits an image best: zero-shot
        classification.

        A label's embedding is the mean of its prompts' embeddings, normalised.
        """
        return await service.answer(request, requests.Classify, endpoints.count, endpoints.classify)

    return router
