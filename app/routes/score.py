"""`POST /v1/score`."""

from __future__ import annotations

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

_WORDS_A_PIECE = 1024


def router(service: Service, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The route; `problem` documents the errors."""
    routes = APIRouter(tags=["score"])
    content = {"application/json": {"schema": ScoreRequest.model_json_schema()}}

    async def answer(headers: Headers, body: bytes, outlet: Outlet) -> None:
        request = ScoreRequest.model_validate_json(body)
        headers.match_session(None)
        texts = (request.texts or []) if request.text is None else [request.text]
        results = await score(service, texts, request.top_k)
        # Long answers take a while to write, and others need not wait for that.
        size = sum(map(len, texts))
        await outlet.reply(await service.beside(size, _reply, service, results))

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
    texts = b",".join(_result(service, result) for result in results)
    return b'{"model":%s,"results":[%s]}' % (pydantic_core.to_json(service.artifact.id), texts)


def _result(service: Service, result: Scored) -> bytes:
    """In pieces: others compute only between them, and plain values take ten times the memory of their JSON."""
    vocabulary, unknown = service.tokenizer.vocabulary, service.tokenizer.unknown_id
    words, scores = result
    pieces = []
    for first in range(0, len(words.ids), _WORDS_A_PIECE):
        piece = slice(first, first + _WORDS_A_PIECE)
        items: list[dict[str, Any]] = [
            {
                "word": vocabulary[id],
                "start": start,
                "end": end,
                "known": id != unknown,
                **replies.score(value, rank),
            }
            for id, start, end, value, rank in zip(
                words.ids[piece],
                (words.starts or ())[piece],
                (words.ends or ())[piece],
                scores.log_probabilities[piece],
                scores.ranks[piece],
                strict=True,
            )
        ]
        if scores.tops is not None:
            for item, (ids, values) in zip(items, scores.tops[piece], strict=True):
                item["predictions"] = [
                    {"word": vocabulary[id], "probability": decoding.probability(value), "log_probability": value}
                    for id, value in zip(ids.tolist(), values.tolist(), strict=True)
                ]
        pieces.append(pydantic_core.to_json(items)[1:-1])
    total, count = math.fsum(scores.log_probabilities), len(words.ids)
    summed = pydantic_core.to_json({"total_log_probability": total, "perplexity": _perplexity(total, count)})
    return b'{"words":[%s],%s' % (b",".join(pieces), summed[1:])


def _perplexity(total: float, count: int) -> float | None:
    """exp(-total / count); None without words, and where it is more than a float can hold."""
    if not count:
        return None
    try:
        return math.exp(-total / count)
    except OverflowError:
        return None
