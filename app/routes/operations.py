"""Whether the service lives and is ready, and what it serves."""

from __future__ import annotations

from typing import Any

import pydantic_core
from fastapi import APIRouter
from starlette.responses import Response

from app import openapi
from app.metrics import MEDIA_TYPE, Metrics
from app.scheduler import Status, UnavailableError
from app.schemas import ModelReply
from app.service import Service

_CARD: openapi.Responses = {200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}}
#: What even these may answer: a key of their own, too many requests, a defect.
_KEPT = (401, 405, 429, 500)
_METRICS_PAGE: openapi.Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def _tells(status: str) -> openapi.Responses:
    schema = {"type": "object", "properties": {"status": {"const": status}}, "required": ["status"]}
    return {200: {"content": {"application/json": {"schema": schema, "example": {"status": status}}}}}


def router(service: Service, metrics: Metrics | None, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes; without `metrics`, there is no `/metrics`. `problem` documents the errors."""
    routes = APIRouter(tags=["operations"])
    artifact, scheduler = service.artifact, service.scheduler

    def ready() -> None:
        if scheduler.status is not Status.READY:
            raise UnavailableError(f"not ready: {scheduler.reason}")

    documented: dict[int | str, dict[str, Any]] = {200: {"model": ModelReply}, **problem}

    @routes.get("/livez", responses=_tells("alive") | openapi.problems(*_KEPT, 503))
    async def livez() -> Response:
        """200 as long as the process answers; 503 when its runtime has failed for a minute: start another."""
        if scheduler.lost:
            raise UnavailableError("the runtime has failed for a minute: end this process, and start another one")
        return Response(b'{"status":"alive"}', media_type="application/json")

    @routes.get("/readyz", responses=_tells("ready") | openapi.problems(*_KEPT, 503))
    async def readyz() -> Response:
        """503 until the model is loaded and warm, while it or the store fails, and while the service shuts down."""
        ready()
        if service.store.away is not None:
            raise UnavailableError(f"not ready: {service.store.away}")
        return Response(b'{"status":"ready"}', media_type="application/json")

    # Some balancers ask with HEAD.
    for path, answer in (("/livez", livez), ("/readyz", readyz)):
        routes.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)

    if metrics is not None:
        page = metrics.page

        @routes.get("/metrics", responses=_METRICS_PAGE | openapi.problems(*_KEPT))
        async def show_metrics() -> Response:
            """What the service counts, for Prometheus."""
            return Response(page(), media_type=MEDIA_TYPE)

    @routes.get("/v1/model", responses=documented)
    async def model() -> Response:
        """The model that is served; `perplexity` as measured on documents held out, if it was."""
        ready()
        body = {
            "name": artifact.name,
            "id": artifact.id,
            "network": artifact.network["kind"],
            "vocabulary": len(artifact.tokenizer),
            "parameters": artifact.parameters,
            "device": scheduler.runtime.device,
            "runtime": scheduler.runtime.name,
            "state_bytes": scheduler.states.bytes_each,
            "perplexity": artifact.measured.get("perplexity"),
        }
        return Response(pydantic_core.to_json(body), media_type="application/json")

    @routes.get("/v1/model/card", responses=_CARD | problem)
    async def card() -> Response:
        """The model's card in Markdown: what it was trained on, under which licences, how good it is. `/model-card`
        shows it to people."""
        return Response(artifact.card, media_type="text/markdown")

    return routes
