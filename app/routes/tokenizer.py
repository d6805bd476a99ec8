"""`/tokenizer_info`, `/tokenize` and `/detokenize`, at the root, as evaluation harnesses ask for them."""

from __future__ import annotations

from typing import Any

import pydantic_core
from fastapi import APIRouter
from starlette.responses import Response

from app import problems
from app.exchange import Exchange, Outlet
from app.openai_schemas import DetokenizeReply, DetokenizeRequest, TokenizeReply, TokenizeRequest, TokenizerReply
from app.problems import Problem
from app.requests import Headers
from app.service import Service


def router(service: Service, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes; `problem` documents the errors."""
    routes = APIRouter(tags=["openai"])
    tokenizer, start = service.tokenizer, service.artifact.start_id
    # What text the special words are: a line end is read as <eos>, and "<eos>" as three ordinary words.
    end = None if tokenizer.end_id is None else "\n"
    first = None if start is None else tokenizer.decode([start])

    @routes.get("/tokenizer_info", responses={200: {"model": TokenizerReply}, **problem})
    async def tokenizer_info() -> Response:
        """What the tokenizer is, and the texts of its special words: the one every text starts after, and line ends."""
        info = {
            "tokenizer_class": f"nextword.{tokenizer.policy}",
            "vocab_size": len(tokenizer),
            "bos_token": first,
            "eos_token": end,
            "unk_token": tokenizer.word_of(tokenizer.unknown_id),
            "add_bos_token": start is not None,
        }
        return Response(pydantic_core.to_json(info), media_type="application/json")

    async def tokenize_text(_: Headers, body: bytes, outlet: Outlet) -> None:
        request = TokenizeRequest.model_validate_json(body)
        encoding = await service.beside(len(request.prompt), tokenizer.encode, request.prompt)
        ids = encoding.ids.tolist()
        if request.add_special_tokens and start is not None:
            ids.insert(0, start)
        reply = {"count": len(ids), "tokens": ids}
        if request.return_token_strs:
            reply["token_strs"] = [tokenizer.word_of(id) for id in ids]
        await outlet.reply(pydantic_core.to_json(reply))

    async def detokenize_ids(_: Headers, body: bytes, outlet: Outlet) -> None:
        request = DetokenizeRequest.model_validate_json(body)
        wrong = next((id for id in request.tokens if id >= len(tokenizer)), None)
        if wrong is not None:
            raise problems.invalid_field("tokens", f"no word has the id {wrong}: ids go to {len(tokenizer) - 1}")
        text = await service.beside(len(request.tokens), tokenizer.decode, request.tokens)
        await outlet.reply(pydantic_core.to_json({"prompt": text}))

    def body(schema: type[TokenizeRequest] | type[DetokenizeRequest]) -> dict[str, Any]:
        content = {"application/json": {"schema": schema.model_json_schema()}}
        return {"requestBody": {"required": True, "content": content}}

    @routes.post("/tokenize", responses={200: {"model": TokenizeReply}, **problem}, openapi_extra=body(TokenizeRequest))
    async def tokenize() -> Response:
        """The ids of a text's words."""
        return Exchange(service, tokenize_text, _failure)

    @routes.post(
        "/detokenize", responses={200: {"model": DetokenizeReply}, **problem}, openapi_extra=body(DetokenizeRequest)
    )
    async def detokenize() -> Response:
        """A text of these words."""
        return Exchange(service, detokenize_ids, _failure)

    return routes


def _failure(problem: Problem) -> tuple[bytes, bytes]:
    return bytes(problem.response().body), b"error"
