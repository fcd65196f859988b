"""The routes: a request becomes searches, and what becomes of them an answer or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from maxent_ts.engines.base import Engine
from maxent_ts.registry import METHODS
from maxent_ts.server.answers import answer_request
from maxent_ts.server.errors import ApiError, internal_error, validation_error
from maxent_ts.server.gate import Gate
from maxent_ts.server.metrics import CONTENT_TYPE_LATEST, Metrics
from maxent_ts.server.replies import ChatReply, CompletionReply
from maxent_ts.server.requests import METHODS_NOT_SERVED
from maxent_ts.server.rewards import RewardTable
from maxent_ts.server.schemas import ChatRequest, CompletionRequest
from maxent_ts.server.service import Service
from maxent_ts.server.settings import ServerSettings

__all__ = ["create_app"]


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """An error, as OpenAI's API writes it."""

    error: ErrorFacts


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is wrong, or the server has no room for it."},
    "5XX": {"model": ErrorReply, "description": "The server failed."},
}


def create_app(engine: Engine, settings: ServerSettings, rewards: RewardTable) -> FastAPI:
    """Return the application. The engine belongs to it from startup to shutdown.

    Args:
        engine: Answers the searches of all requests, in one thread.
        settings: Limits and defaults.
        rewards: What requests may name.
    """
    metrics = Metrics()
    service = Service(engine, max_concurrent=settings.max_concurrent, max_queue=settings.max_queue, on_end=metrics.searched)
    metrics.watch(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    app = FastAPI(title="maxent-ts", lifespan=lifespan, docs_url=None, redoc_url=None, responses=ERRORS)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    _explain_errors(app, settings)

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not service.is_alive:
            raise ApiError(503, "The server runs no searches.", "server_error", code="stopped")
        return {"status": "ok", "model": settings.model_name}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def measured() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        methods = sorted(METHODS.keys() - METHODS_NOT_SERVED.keys())
        facts = {"methods": methods, "rewards": rewards.names}
        model = {"id": settings.model_name, "object": "model", "created": 0, "owned_by": "maxent-ts", "maxent": facts}
        return {"object": "list", "data": [model]}

    stream: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {}}, "description": "The reply, or with `stream` its chunks."}
    }

    @app.post("/v1/completions", response_model=CompletionReply, responses=stream)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await answer_request(body, request, service, settings, rewards)

    @app.post("/v1/chat/completions", response_model=ChatReply, responses=stream)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await answer_request(body, request, service, settings, rewards)

    return app


def _explain_errors(app: FastAPI, settings: ServerSettings) -> None:
    """Answer whatever goes wrong in one form."""

    def answer(error: ApiError) -> Response:
        return JSONResponse(error.body_for(settings), error.status, error.headers)

    @app.exception_handler(ApiError)
    async def known(_: Request, error: ApiError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return answer(validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> Response:
        message = (
            f"{error.detail}. What there is, GET /openapi.json tells." if error.status_code in (404, 405) else str(error.detail)
        )
        answered = answer(ApiError(error.status_code, message, "invalid_request_error"))
        answered.headers.update(error.headers or {})
        return answered

    @app.exception_handler(Exception)
    async def unknown(_: Request, _error: Exception) -> Response:
        return answer(internal_error())  # whose cause Starlette hands on to the server's log
