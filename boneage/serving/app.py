"""The API and the page. This process reads requests and never decodes an image: workers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from boneage import __version__
from boneage.serving.api_page import describe_api
from boneage.serving.asking import Asked, Kind, Reply
from boneage.serving.guard import Guard, Settings, is_protected, problem_response
from boneage.serving.metrics import Metrics
from boneage.serving.pages import PageFiles
from boneage.serving.problems import MEDIA_TYPE, ProblemError, is_busy
from boneage.serving.schemas import (
    Form,
    HeatObject,
    ModelsObject,
    PredictionObject,
    ProblemObject,
)
from boneage.serving.uploads import BodyBudget, Held, read_upload
from boneage.serving.workers import Workers

Endpoint = Callable[[Request], Awaitable[Response]]

_DESCRIPTION = (
    "Estimate the bone age of a hand radiograph. Research use only. This is not a medical device. "
    "Nothing that is uploaded is stored. Errors are problem details (RFC 9457)."
)
_PROBLEMS = {
    400: "The form can't be read.",
    401: "The token is missing or wrong.",
    403: "Pages of other sites may not ask.",
    408: "The file came too slowly.",
    413: "The file is too large.",
    415: "The body is no multipart form.",
    421: "Without a token, the server answers only to the names of its computer.",
    422: "The file can't be read, or a field is wrong.",
    431: "The headers are too long.",
    500: "The server has failed at this request.",
    503: "Too many requests wait. Try again after Retry-After seconds.",
    504: "The answer took too long.",
}
_PROBLEMS_OF_GET = (401, 421, 431, 500, 503)
_POSTS: tuple[tuple[str, Kind, str, str, Any], ...] = (
    (
        "/v1/predict",
        "predict",
        "Answer for one radiograph. A refused image is a result, with status refused.",
        "The answer.",
        PredictionObject,
    ),
    (
        "/v1/explain",
        "explain",
        "Show which places of the radiograph move its answer. This takes seconds.",
        "The heat map.",
        HeatObject,
    ),
    (
        "/v1/dicom/report",
        "report",
        "Answer as a DICOM Structured Report. The radiograph must be DICOM.",
        "The document.",
        None,
    ),
    (
        "/v1/dicom/image",
        "image",
        "Answer as a DICOM Secondary Capture. The radiograph must be DICOM.",
        "The document.",
        None,
    ),
)


def create_app(workers: Workers, settings: Settings) -> FastAPI:
    """Return the application.

    Args:
        workers: They answer; they may still be starting.
        settings: Token, limits and where lines of the log go.
    """
    app = FastAPI(
        title="boneage",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(workers)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    for kind in (ProblemError, HTTPException):
        app.add_exception_handler(kind, _as_problem)
    _add_answers(app, workers, settings, metrics)
    _add_state(app, workers, metrics)
    _add_description(app, settings)
    _add_page(app)
    return app


async def _as_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, ProblemError):
        return problem_response(error)
    assert isinstance(error, HTTPException)
    details = {404: "There is nothing at this address.", 405: "Use another method."}
    detail = details.get(error.status_code, str(error.detail))
    return problem_response(ProblemError(error.status_code, detail, error.headers))


def _add_answers(app: FastAPI, workers: Workers, settings: Settings, metrics: Metrics) -> None:
    budget = BodyBudget(settings)

    def endpoint(kind: Kind) -> Endpoint:
        async def answer(request: Request) -> Response:
            if not workers.is_ready:
                raise is_busy("No worker is ready.")
            with Held(budget) as held:
                asked, content = await read_upload(request, kind, budget, held)
                reply = await _ask(workers, asked, content, request)
            if reply is None:
                return Response(status_code=499)  # nobody hears it
            metrics.count_answer(kind, reply.outcome)
            headers = {}
            if reply.media_type == "application/dicom":
                headers["Content-Disposition"] = f'attachment; filename="boneage-{kind}.dcm"'
            return Response(reply.body, reply.status, headers, reply.media_type)

        return answer

    for path, kind, text, returned, schema in _POSTS:
        app.post(
            path,
            description=text,
            summary=text.partition(".")[0],
            operation_id=f"post_{kind}",
            response_class=Response,
            responses=_responses(returned, schema),
            openapi_extra=_form(),
        )(endpoint(kind))


async def _ask(workers: Workers, asked: Asked, content: bytes, request: Request) -> Reply | None:
    """Return the reply of a worker; None if the client has gone meanwhile."""
    answering = asyncio.ensure_future(workers.answer(asked, content))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else None
    finally:
        answering.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _responses(
    returned: str, schema: Any, problems: Iterable[int] = _PROBLEMS
) -> dict[int | str, dict[str, Any]]:
    problem = {"schema": {"$ref": "#/components/schemas/ProblemObject"}}
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": _PROBLEMS[status], "content": {MEDIA_TYPE: problem}}
        for status in problems
    }
    kind, content = "application/dicom", {"type": "string", "format": "binary"}
    if schema is not None:
        kind, content = "application/json", {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {200: {"description": returned, "content": {kind: {"schema": content}}}, **found}


def _form() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Form"}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def _add_state(app: FastAPI, workers: Workers, metrics: Metrics) -> None:
    @app.get(
        "/v1/models",
        description="Return which models answer, and how.",
        summary="Return which models answer",
        response_class=Response,
        responses=_responses("The models.", ModelsObject, _PROBLEMS_OF_GET),
    )
    async def models() -> Response:
        if not workers.description:
            raise is_busy("No worker is ready.")
        return Response(json.dumps(workers.description), media_type="application/json")

    @app.get("/healthz", description="Say that the server lives.", response_class=Response)
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", description="Say whether a worker is ready.", response_class=Response)
    async def readyz() -> Response:
        if not workers.is_ready:
            raise is_busy("No worker is ready.")
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics", description="Return counters for Prometheus.", response_class=Response)
    async def read_metrics() -> Response:
        return Response(metrics.as_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_description(app: FastAPI, settings: Settings) -> None:
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = describe()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            for model in (Form, PredictionObject, HeatObject, ModelsObject, ProblemObject):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            if settings.token is not None:
                scheme = {"type": "http", "scheme": "bearer"}
                found["components"]["securitySchemes"] = {"token": scheme}
                for path, methods in found["paths"].items():
                    for operation in methods.values() if is_protected(path) else ():
                        operation["security"] = [{"token": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def read_openapi() -> dict[str, Any]:
        return openapi()

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        address = str(request.base_url).rstrip("/")
        page = describe_api(openapi(), address, has_token=settings.token is not None)
        return Response(page, media_type="text/html; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    files = PageFiles()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return files.respond("index.html", request)

    @app.api_route("/page/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(name: str, request: Request) -> Response:
        return files.respond(name, request)

    @app.api_route("/samples/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def sample(name: str, request: Request) -> Response:
        return files.respond(f"samples/{name}", request)
