"""The routes of the server."""

import asyncio
import contextlib
import importlib.metadata
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from ola_jax.serve.api_error import ApiError, internal
from ola_jax.serve.chat import ChatReply
from ola_jax.serve.contract import AnsweringEngine
from ola_jax.serve.keys import RequireKey
from ola_jax.serve.limits import ServerConfig
from ola_jax.serve.service import Service


def create_app(engine: AnsweringEngine, config: ServerConfig) -> FastAPI:
    """The ASGI application; it starts the engine, and closes it when the server has answered all requests."""
    services: list[Service] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(engine, config)
        engine.start()
        services.append(service)
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_routes(app, lambda: services[0])
    _add_error_handlers(app)
    app.add_middleware(RequireKey, keys=config.api_keys)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type"),
        )
    return app


def _add_routes(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        return ChatReply(service(), request)

    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [_model(service())]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != service().config.model_name:
            raise ApiError(404, "no such model", code="model_not_found")
        return _json(_model(service()))

    async def health() -> Response:
        status, healthy = service().engine.status(), service().healthy()
        fields = {
            "status": "ok" if healthy else "stuck" if status.alive else "failed",
            "running": status.running,
            "waiting": status.waiting + service().admission.waiting,
            "last_step_age_seconds": status.last_step_age_seconds,
        }
        return _json(fields, 200 if healthy else 503)

    app.add_api_route("/health", health)
    app.add_api_route("/ping", health, methods=["GET", "POST"])

    @app.get("/version")
    async def version() -> Response:
        return _json({"version": importlib.metadata.version("ola_jax")})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service().metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _error(error)

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": "GET, POST, OPTIONS"})
        return _error(ApiError(404, "no such address", code="not_found"))

    @app.exception_handler(405)
    async def wrong_method(request: Request, error: Exception) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": "GET, POST, OPTIONS"})
        return _error(ApiError(405, "the address does not take this method", code="method_not_allowed"))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _error(internal())


def _model(service: Service) -> dict[str, Any]:
    name, length = service.config.model_name, service.engine.config.length
    fields = {"id": name, "object": "model", "created": int(service.started), "owned_by": "ola_jax"}
    return fields | {"max_model_len": length}


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


def _error(error: ApiError) -> Response:
    return Response(error.encoded(), error.status, error.headers, media_type="application/json")
