"""`POST /v1/generate`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pydantic_core
from fastapi import APIRouter
from starlette.responses import Response

from app import openapi, problems, replies
from app.exchange import Exchange, Outlet
from app.generation import Opening, Order, in_session
from app.problems import Problem
from app.requests import Headers
from app.running_text import RunningText
from app.schemas import GenerateReply, GenerateRequest
from app.service import Service
from app.speech import Said
from model.decoding import Sampling
from model.tokenizer import Tokenizer

_STREAM = openapi.events("word", "done", "error")


def router(service: Service, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The route; `problem` documents the errors."""
    routes = APIRouter(tags=["generate"])
    content = {"application/json": {"schema": GenerateRequest.model_json_schema()}}

    @routes.post(
        "/v1/generate",
        responses={200: {"model": GenerateReply, "content": _STREAM}, **problem},
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def generate() -> Response:
        """Consume words, then generate: the whole at once, or as server-sent events.

        An event `word` holds `word`, `text` and `position`, and the model's `log_probability`, `probability`, `rank`
        and `surprisal_bits` of it, but for words that an earlier request was told already. The texts of all of them
        make up that of the last event, `done`, which is the reply as it is without `stream`. An event `error` instead
        is a problem, and then nothing was consumed.
        """
        return Exchange(service, Generate(service).answer, _failure)

    return routes


def _failure(problem: Problem) -> tuple[bytes, bytes]:
    return bytes(problem.response().body), b"error"


class Generate:
    """One request, from its body to its answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._text: RunningText
        self._pieces: list[str] = []
        self._blank = False

    async def answer(self, headers: Headers, body: bytes, outlet: Outlet) -> None:
        service = self._service
        request = GenerateRequest.model_validate_json(body)
        headers.match_session(request.session_id)
        words = await service.words_of(request)
        self._blank = (request.text or "")[-1:].isspace()

        async def tell(opening: Opening, said: Said) -> None:
            if not outlet.started:
                await outlet.open(opening.session_id)
            text = self._set(opening, said)
            data = {"word": self._word(said), "text": text, "position": opening.position + len(self._pieces)}
            if said.rank:
                data |= replies.score(said.log_probability, said.rank)
            await outlet.event(pydantic_core.to_json(data), b"word")

        generated = await in_session(
            service,
            request.session_id,
            request.position,
            words.ids,
            order_of(service, request),
            tell if request.stream else None,
        )
        opening, said = generated.opening, generated.said
        if not request.stream:
            await asyncio.to_thread(self._set_all, opening, said)
        reply = pydantic_core.to_json(
            {
                "session_id": opening.session_id,
                "position": opening.position + len(said),
                "text": "".join(self._pieces),
                "words": [self._word(word) for word in said],
                "finish_reason": generated.finish_reason,
            }
        )
        if not request.stream:
            await outlet.reply(reply, opening.session_id)
            return
        if not outlet.started:
            await outlet.open(opening.session_id)
        await outlet.event(reply, b"done")
        await outlet.close()

    def _word(self, said: Said) -> str:
        return self._service.tokenizer.vocabulary[said.id]

    def _set_all(self, opening: Opening, said: Sequence[Said]) -> None:
        for word in said:
            self._set(opening, word)

    def _set(self, opening: Opening, said: Said) -> str:
        if not self._pieces:
            self._text = RunningText(self._service.tokenizer, opening.words, blank=self._blank)
        piece = self._text.add(said.id)
        self._pieces.append(piece)
        return piece


def order_of(service: Service, request: GenerateRequest) -> Order:
    """What the request orders. A stop with a word that is not in the vocabulary is never said, so it stops nothing."""
    tokenizer = service.tokenizer

    def words(stop: str) -> tuple[int, ...]:
        id = tokenizer.id_of(stop)
        return stop_words(tokenizer, stop) if id is None else (id,)

    stops = tuple(sorted(set(map(words, request.stop or ()))))
    return Order(request.max_words, Sampling(request.temperature, request.top_k, request.top_p), request.seed, stops)


def stop_words(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The words of a text to stop before. Raises `Problem` for one that has none: it would stop nothing."""
    ids = tuple(tokenizer.encode(text).ids.tolist())
    if not ids:
        raise problems.invalid_field("stop", f"there is no word in {text!r}, so it would stop nothing")
    return ids
