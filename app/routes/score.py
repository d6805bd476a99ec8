"""`POST /v1/score`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pydantic_core
from fastapi import APIRouter
from starlette.responses import Response

from app import replies
from app.exchange import Exchange, Outlet
from app.problems import Problem
from app.requests import Headers
from app.schemas import ScoreReply, ScoreRequest
from app.scoring import Scored, score
from app.service import Service
from model import decoding


def router(service: Service, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The route; `problem` documents the errors."""
    routes = APIRouter(tags=["score"])
    content = {"application/json": {"schema": ScoreRequest.model_json_schema()}}

    async def answer(headers: Headers, body: bytes, outlet: Outlet) -> None:
        request = ScoreRequest.model_validate_json(body)
        headers.match_session(None)
        texts = request.texts if request.text is None else [request.text]
        results = await score(service, texts or [], request.top_k)
        # Long answers take a while to write, and others need not wait for that.
        await outlet.reply(await asyncio.to_thread(_reply, service, results))

    @routes.post(
        "/v1/score",
        responses={200: {"model": ScoreReply}, **problem},
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def score_texts() -> Response:
        """How likely each word of each text was, given those before it. No session is touched."""
        return Exchange(service, answer, _no_stream)

    return routes


def _no_stream(problem: Problem) -> tuple[bytes, bytes]:
    return bytes(problem.response().body), b"error"


def _reply(service: Service, results: Sequence[Scored]) -> bytes:
    return pydantic_core.to_json(
        {"model": service.artifact.id, "results": [_result(service, result) for result in results]}
    )


def _result(service: Service, result: Scored) -> dict[str, Any]:
    vocabulary, unknown = service.tokenizer.vocabulary, service.tokenizer.unknown_id
    words, scores = result
    items: list[dict[str, Any]] = [
        {
            "word": vocabulary[id],
            "start": start,
            "end": end,
            "known": id != unknown,
            **replies.score(value, rank),
        }
        for id, start, end, value, rank in zip(
            words.ids, words.starts or (), words.ends or (), scores.log_probabilities, scores.ranks, strict=True
        )
    ]
    if scores.tops is not None:
        for item, (ids, values) in zip(items, scores.tops, strict=True):
            item["predictions"] = [
                {"word": vocabulary[id], "probability": decoding.probability(value), "log_probability": value}
                for id, value in zip(ids.tolist(), values.tolist(), strict=True)
            ]
    total = math.fsum(scores.log_probabilities)
    return {"words": items, "total_log_probability": total, "perplexity": _perplexity(total, len(items))}


def _perplexity(total: float, count: int) -> float | None:
    """exp(-total / count); None without words, and where it is more than a float can hold."""
    if not count:
        return None
    try:
        return math.exp(-total / count)
    except OverflowError:
        return None
