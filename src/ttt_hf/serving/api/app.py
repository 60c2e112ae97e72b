"""The application: addresses, and what surrounds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse

from . import audio_endpoints, chat, realtime, web_page
from .api_errors import ApiError, handle_api_error, handle_status, handle_validation_error
from .guard import Guard, Rules
from .schemas import ChatRequest, SpeechRequest
from .service import Service


def create_app(service: Service, rules: Rules, has_page: bool = False) -> Any:
    """The ASGI application.

    Args:
        service: The engine and what the endpoints share; the engine is closed when the application ends.
        rules: Who may ask, and how much.
        has_page: Whether `/` is a page to talk to the model.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close)

    # Its pages with documentation would load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(ApiError, handle_api_error)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    for status in (400, 404, 405):
        app.add_exception_handler(status, handle_status)
    _add_endpoints(app, service)
    if has_page:
        web_page.add_page(app, service, can_be_framed=rules.is_public)
    if rules.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=rules.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return Guard(app, rules)


def _add_endpoints(app: FastAPI, service: Service) -> None:
    model = {"id": service.name, "object": "model", "created": service.started, "owned_by": "local"}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(body: ChatRequest, request: Request) -> Response:
        return await chat.complete(service, body, request)

    @app.post("/v1/audio/speech", response_model=None)
    async def speak(body: SpeechRequest, request: Request) -> Response:
        return await audio_endpoints.speak(service, body, request)

    @app.post("/v1/audio/transcriptions", response_model=None)
    async def transcribe(request: Request) -> Response:
        return await audio_endpoints.transcribe(service, request)

    @app.websocket("/v1/realtime")
    async def talk(socket: WebSocket) -> None:
        await realtime.converse(service, socket)

    @app.get("/v1/models", response_model=None)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}", response_model=None)
    async def describe(name: str) -> dict[str, Any]:
        service.check_model(name)
        return model

    @app.get("/health", response_model=None)
    async def health() -> Response:
        is_open = service.engine.is_open
        return JSONResponse({"status": "ok" if is_open else "closing"}, status_code=200 if is_open else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")
