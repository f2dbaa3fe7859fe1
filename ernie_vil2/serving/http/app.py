"""The HTTP interface: FastAPI over an exported model. `tools/serve.py` runs it.

A request's form is judged as a whole (4xx); the content of a list's item by itself: one bad image
does not take the answer from the others. Such an answer is 200 if any item is good, else 422.
"""

import asyncio
import base64
from contextlib import asynccontextmanager

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import ernie_vil2
from ernie_vil2.serving.http import docs, schemas
from ernie_vil2.serving.http.embedder import Row
from ernie_vil2.serving.http.inputs import FORM, JSON
from ernie_vil2.serving.http.metrics import Measured
from ernie_vil2.serving.http.service import Service
from ernie_vil2.serving.items import ItemError
from ernie_vil2.serving.web.errors import ApiError
from ernie_vil2.serving.web.limits import KeyFirst

DESCRIPTION = """Embeddings of texts and images in one space, their similarity, and zero-shot
classification. Every error has one form: `{"error": {"code", "message", "index"}}`. Images are
sent as base64 in JSON, or as files of a multipart form with the same field names, a list's field
repeated. The server fetches no path and no URL."""


# -- Numbers ---------------------------------------------------------------------------------------


def short_floats(array: np.ndarray) -> list:
    """Lists of numbers that are short as decimals, and exact: nine digits tell every float32
    apart. Below 1e-13 the digits become fewer."""
    array = np.asarray(array, np.float64)
    exponents = np.floor(np.log10(np.maximum(np.abs(array), 1e-13)))
    scale = 10.0 ** (8 - exponents)  # at most 1e21, which float64 holds exactly
    return (np.round(array * scale) / scale).tolist()


def _encode(row: Row, encoding: str):
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return short_floats(row)


def _cosine(texts: list[Row], images: list[Row]) -> np.ndarray:
    return np.stack(texts) @ np.stack(images).T


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# -- Routes ----------------------------------------------------------------------------------------


def create_app(service: Service) -> FastAPI:
    """The application; its start loads the model, its end closes the batcher."""

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.batcher.start()
        yield
        service.embedder.close(timeout=1.0)

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

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

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
    not_well = {503: {"model": schemas.ErrorResponse}}

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
    embedder, logit_scale = service.embedder, service.artefact.logit_scale

    async def authorised(request: Request) -> None:
        service.keys.check(request)

    statuses = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)
    dependencies = [Depends(authorised)]
    if service.keys:
        dependencies.append(Depends(HTTPBearer(auto_error=False)))
    router = APIRouter(
        prefix="/v1",
        tags=["model"],
        dependencies=dependencies,
        responses={status: {"model": schemas.ErrorResponse} for status in statuses},
    )

    @router.post(
        "/embed/text",
        response_model=schemas.EmbedResponse,
        openapi_extra=_body(requests.Texts),
    )
    async def embed_text(request: Request):
        """Embeddings of texts; beyond the model's length a text is cut."""

        async def work(body):
            return _embeddings(await embedder.texts(body.texts), body.encoding)

        return await service.answer(request, requests.Texts, lambda body: len(body.texts), work)

    @router.post(
        "/embed/image",
        response_model=schemas.EmbedResponse,
        openapi_extra=_body(requests.Images),
    )
    async def embed_image(request: Request):
        """Embeddings of images: JPEG, PNG, GIF, BMP, PPM, WebP or TIFF."""

        async def work(body):
            return _embeddings(await embedder.images(body.images), body.encoding)

        return await service.answer(request, requests.Images, lambda body: len(body.images), work)

    def _embeddings(rows: list, encoding: str) -> tuple[dict, list]:
        results = [
            {"index": i, "error": row.at(i)}
            if isinstance(row, ItemError)
            else {"index": i, "embedding": _encode(row, encoding)}
            for i, row in enumerate(rows)
        ]
        return {"dim": service.artefact.embed_dim, "results": results}, rows

    @router.post(
        "/similarity",
        response_model=schemas.SimilarityResponse,
        openapi_extra=_body(requests.Similarity),
    )
    async def similarity(request: Request):
        """Each text with each image."""

        def count(body):
            return len(body.texts) + len(body.images)

        async def work(body):
            texts, images = await asyncio.gather(
                embedder.texts(body.texts), embedder.images(body.images)
            )
            table = np.full([len(texts), len(images)], None, object)
            logits = table.copy()
            rows, columns = _good(texts), _good(images)
            if rows and columns:
                cosine = _cosine([texts[i] for i in rows], [images[i] for i in columns])
                table[np.ix_(rows, columns)] = short_floats(cosine)
                logits[np.ix_(rows, columns)] = short_floats(logit_scale * cosine)
            errors = [
                {"input": name, **item.at(i)}
                for name, items in (("texts", texts), ("images", images))
                for i, item in enumerate(items)
                if isinstance(item, ItemError)
            ]
            answer = {
                "cosine": table.tolist(),
                "logits": logits.tolist(),
                "logit_scale": logit_scale,
                "errors": errors,
            }
            # without a good one on either side there is no pair
            return answer, texts if not rows else images

        return await service.answer(request, requests.Similarity, count, work)

    @router.post(
        "/classify",
        response_model=schemas.ClassifyResponse,
        openapi_extra=_body(requests.Classify),
    )
    async def classify(request: Request):
        """Which of some labels fits an image best: zero-shot classification.

        A label's embedding is the mean of its prompts' embeddings, normalised.
        """

        async def prompts(body) -> list[str]:
            templates = service.artefact.prompts if body.templates is None else body.templates
            for i, template in enumerate(templates):
                if template.count("{}") != 1:
                    message = f"template {template[:60]!r}: expected {{}} once"
                    raise ApiError(422, "bad_template", message, i)
            for i, label in enumerate(await embedder.prepare_texts(body.labels)):
                if isinstance(label, ItemError):
                    raise ApiError(422, label.code, f"label: {label.message}", i)
            return [t.replace("{}", label) for label in body.labels for t in templates]

        def count(body):
            templates = service.artefact.prompts if body.templates is None else body.templates
            return len(body.images) + len(body.labels) * len(templates)

        async def work(body):
            texts, images = await asyncio.gather(
                embedder.texts(await prompts(body)), embedder.images(body.images)
            )
            per_label = len(texts) // len(body.labels)
            for i, item in enumerate(texts):
                if isinstance(item, ItemError):
                    message = f"label with its template: {item.message}"
                    raise ApiError(422, item.code, message, i // per_label)
            # [labels, templates, D] -> [labels, D]
            labels = np.stack(texts).reshape(len(body.labels), per_label, -1).mean(axis=1)
            labels /= np.maximum(np.linalg.norm(labels, axis=1, keepdims=True), 1e-12)
            results = []
            for i, image in enumerate(images):
                if isinstance(image, ItemError):
                    results.append({"index": i, "error": image.at(i)})
                    continue
                cosine = labels @ image
                results.append(
                    {
                        "index": i,
                        "label": body.labels[int(cosine.argmax())],
                        "probabilities": _softmax(logit_scale * cosine.astype(np.float64)).tolist(),
                        "cosine": short_floats(cosine),
                    }
                )
            return {"labels": body.labels, "results": results}, images

        return await service.answer(request, requests.Classify, count, work)

    return router


def _good(items: list) -> list[int]:
    return [i for i, item in enumerate(items) if not isinstance(item, ItemError)]


def _body(model: type[BaseModel]) -> dict:
    """What OpenAPI says of a request's body, which the application reads itself: within limits,
    and off the event loop."""
    schema = model.model_json_schema()
    content = {JSON: {"schema": schema}}
    if "images" in schema["properties"]:
        form = model.model_json_schema()
        form["properties"]["images"]["items"] = {"type": "string", "format": "binary"}
        del form["properties"]["images"]["examples"]
        content[FORM] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}
