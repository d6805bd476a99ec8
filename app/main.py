"""The application: what is loaded at start, what is served where, what happens at the end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import model.runtimes
from app import openapi
from app.gate import Gate
from app.metrics import Metrics
from app.problems import ProblemMiddleware, answer_http_exception
from app.routes import generate, openai, operations, page, score, sessions, tokenizer
from app.routes.predict import Predict
from app.schemas import PredictReply, PredictRequest
from app.security import Guard, Keys, Origins
from app.service import Service
from app.settings import Settings
from model.artifact import Artifact
from model.runtimes.base import Runtime

PREDICT = "/v1/predict"

_PROBLEMS = openapi.problems()


class Application(FastAPI):
    """FastAPI with a short way in for the one path that has to be fast: its layers cost more than the rest of a
    predict request does."""

    predict: Predict
    gate: Gate
    keys: Keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gate(scope, receive, send)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Behind the gate."""
        if scope["type"] == "http" and scope["path"] == PREDICT and scope["method"] == "POST":
            await self.predict(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings | None = None,
    *,
    runtime: Runtime | None = None,
    artifact: Artifact | None = None,
    clock: Callable[[], float] = time.time,
) -> Application:
    """The service as an ASGI application; `app.state.service` is the `Service` behind it.

    The model directory is read here, the runtime is loaded once the application runs: until it is warm, `/livez`
    answers and `/readyz` says 503. `artifact` and `runtime` are used instead of what the settings name.

    Raises:
        ArtifactError: the model directory cannot be used.
        KeysError: the keys that clients must show cannot be used.
    """
    settings = Settings() if settings is None else settings
    artifact = Artifact.load(settings.model) if artifact is None else artifact

    def load() -> Runtime:
        if runtime is not None:
            return runtime
        return model.runtimes.load(artifact, settings.runtime, threads=settings.threads)

    keys = Keys(settings.api_keys, settings.api_keys_file)
    service = Service(settings, artifact, load, clock=clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = Application(
        title="nextword",
        description="What word comes next? A recurrent network's answer, its state kept for each session.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # the page of FastAPI comes from elsewhere
        redoc_url=None,
        # Predict is not answered by FastAPI, and its spans and logs hold paths and messages: see `app.spans`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    app.predict = Predict(service)
    app.keys = keys
    origins = Origins(settings.cors_origins)
    app.gate = Gate(_guarded(app.route, keys, settings, origins), frozenset({PREDICT}), origins)
    app.add_middleware(ProblemMiddleware, retry_after=settings.retry_after_seconds)
    app.add_exception_handler(HTTPException, answer_http_exception)

    app.router.routes.insert(0, _predict_route(app.predict))
    app.include_router(sessions.router(service, _PROBLEMS))
    for resource in (generate, score, openai, tokenizer):
        app.include_router(resource.router(service, _PROBLEMS))
    metrics = None if settings.metrics == "off" else Metrics(service, app.gate)
    app.include_router(operations.router(service, metrics, _PROBLEMS))
    app.include_router(page.router())
    words, pairs = len(artifact.tokenizer), service.adaptation.size
    document = partial(openapi.document, app, keyed=keys.configured, vocabulary=words, pairs=pairs)
    app.openapi = cache(document)  # type: ignore[method-assign]  # nothing in it changes
    return app


def _guarded(app: ASGIApp, keys: Keys, settings: Settings, origins: Origins) -> ASGIApp:
    """`app` behind what the settings ask for; by default that is nothing."""
    if Guard.needed(keys, settings):
        app = Guard(app, keys, settings)
    if origins.names:
        app = CORSMiddleware(
            app,
            allow_origins=origins.names,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Session-Id", "X-Request-Id"],
            expose_headers=["Location", "Retry-After", "X-Session-Id", "X-Request-Id"],
        )
    return app


def _predict_route(endpoint: Predict) -> APIRoute:
    """A route that is documented as any other, and answered without FastAPI's part in between."""

    async def predict(_: Request) -> Response:
        """Consume words, answer with what may come next."""
        raise AssertionError("answered by `Predict`")

    content = {"application/json": {"schema": PredictRequest.model_json_schema()}}
    route = APIRoute(
        PREDICT,
        predict,
        methods=["POST"],
        tags=["predict"],
        responses={200: {"model": PredictReply}, **_PROBLEMS},
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    route.app = endpoint
    return route
