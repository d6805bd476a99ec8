"""`/v1/completions` and `/v1/models`, as OpenAI's clients expect them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pydantic_core
from fastapi import APIRouter
from starlette.responses import Response

from app import openapi, problems
from app.completions import Choice, Given, given_ids
from app.exchange import Exchange, Outlet
from app.generation import Generated, Opening, Order, alone, in_session
from app.openai_schemas import MAX_ANSWER, CompletionReply, CompletionRequest, ListedModel, ModelsReply
from app.problems import Problem
from app.requests import Headers
from app.routes.generate import stop_words
from app.schemas import OpenRequest
from app.service import Service
from app.speech import Said
from model.decoding import Sampling

#: So many completions of one request are on their way at once: more would crowd out the requests of others.
AT_ONCE = 16

#: Longer answers are written on another thread, so that they do not hold up everybody else.
INLINE_WORDS = 64

T = TypeVar("T")

_STREAM = openapi.events("message")


def router(service: Service, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes; `problem` documents the errors."""
    routes = APIRouter(prefix="/v1", tags=["openai"])
    content = {"application/json": {"schema": CompletionRequest.model_json_schema()}}
    started = int(service.clock())

    @routes.post(
        "/completions",
        responses={200: {"model": CompletionReply, "content": _STREAM}, **problem},
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def completions() -> Response:
        """Text that goes on from a prompt, as OpenAI's completions. Without `session_id` no session is touched."""
        return Exchange(service, Completion(service).answer, _failure)

    def listed(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "nextword"}

    @routes.get("/models", responses={200: {"model": ModelsReply}, **problem})
    async def models() -> Response:
        """The model that is served, by its name and by its id."""
        reply = {"object": "list", "data": [listed(name) for name in _names(service)]}
        return Response(pydantic_core.to_json(reply), media_type="application/json")

    @routes.get("/models/{model}", responses={200: {"model": ListedModel}, **problem})
    async def model(model: str) -> Response:
        """One of them."""
        _require_served(service, model)
        return Response(pydantic_core.to_json(listed(model)), media_type="application/json")

    return routes


def _names(service: Service) -> tuple[str, str]:
    return service.artifact.name, service.artifact.id


def _require_served(service: Service, model: str) -> None:
    names = _names(service)
    if model not in names:
        raise Problem(404, "no-such-model", f"the model {model!r} is not served here, but {names[0]!r} is")


def _failure(problem: Problem) -> tuple[bytes, bytes]:
    error = {"message": problem.detail, "type": problem.kind, "param": None, "code": problem.status}
    return pydantic_core.to_json({"error": error}), b""


class Completion:
    """One request, from its body to its answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tokenizer = service.tokenizer
        self._request: CompletionRequest
        self._outlet: Outlet
        self._base: dict[str, Any]
        self._sending = asyncio.Lock()

    async def answer(self, headers: Headers, body: bytes, outlet: Outlet) -> None:
        service = self._service
        self._request = request = CompletionRequest.model_validate_json(body)
        self._outlet = outlet
        headers.match_session(request.session_id)
        if request.model:
            _require_served(service, request.model)
        self._base = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(service.clock()),
            "model": service.artifact.id,
        }
        if request.stream and request.stream_options and request.stream_options.get("include_usage"):
            self._base["usage"] = None  # in each chunk, and known in the last
        prompts = [await self._given(prompt) for prompt in request.prompts]
        order = self._order()
        count = request.n or 1
        size = count * sum(order.max_words + (len(prompt.ids) if order.echo else 0) for prompt in prompts)
        if size * max(1, order.tops or 0) > MAX_ANSWER:
            raise problems.answer_too_large(size, order.tops or 0, MAX_ANSWER)
        if request.session_id is None:
            room = asyncio.Semaphore(max(1, AT_ONCE // count))
            whole = await _together([self._alone(prompts[i], order, i * count, room) for i in range(len(prompts))])
        else:
            whole = [await self._in_session(prompts[0], order, request.session_id)]
        choices = [choice for found, _ in whole for choice in found]
        said = sum(words for _, words in whole)
        given = sum(len(prompt.ids) for prompt in prompts)
        usage = {"prompt_tokens": given, "completion_tokens": said, "total_tokens": given + said}
        if not request.stream:
            reply = {**self._base, "choices": choices, "usage": usage}
            await outlet.reply(await _written(size, pydantic_core.to_json, reply), request.session_id)
            return
        if "usage" in self._base:
            self._base["usage"] = usage
            await self._send([])
        await outlet.event(b"[DONE]")
        await outlet.close()

    async def _alone(
        self, given: Given, order: Order, index: int, room: asyncio.Semaphore
    ) -> tuple[list[dict[str, Any]], int]:
        numbers = range(self._request.n or 1)
        choices = [self._choice(index + number, given) for number in numbers]

        async def tell(number: int, opening: Opening, said: Said) -> None:
            await self._hear(choices[number], opening, said)

        async with room:
            found = await alone(self._service, given.consumed, order, numbers, tell if self._request.stream else None)
        ends = [await self._end(choice, generated) for choice, generated in zip(choices, found, strict=True)]
        return ends, sum(len(generated.said) for generated in found)

    async def _in_session(self, given: Given, order: Order, session_id: str) -> tuple[list[dict[str, Any]], int]:
        choice = self._choice(0, given)
        self._base["session_id"] = session_id

        async def tell(opening: Opening, said: Said) -> None:
            await self._hear(choice, opening, said)

        generated = await in_session(
            self._service,
            session_id,
            self._request.position,
            given.consumed,
            order,
            tell if self._request.stream else None,
        )
        self._base["position"] = generated.opening.position + len(generated.said)
        return [await self._end(choice, generated)], len(generated.said)

    def _choice(self, index: int, given: Given) -> Choice:
        return Choice(self._tokenizer, index, given, self._request.logprobs, echo=bool(self._request.echo))

    async def _hear(self, choice: Choice, opening: Opening, said: Said) -> None:
        choice.say(said, opening.words, opening.scores)
        await self._send([choice.take(None)])

    async def _end(self, choice: Choice, generated: Generated) -> dict[str, Any]:
        """The whole choice, or what a stream lacks of it."""
        opening, said = generated.opening, generated.said
        if not self._request.stream:
            size = len(said) + (len(opening.words) if self._request.echo else 0)
            return await _written(size, choice.whole, said, opening.words, opening.scores, generated.finish_reason)
        choice.begin(opening.words, opening.scores)
        end = choice.take(generated.finish_reason)
        await self._send([end])
        return end

    async def _send(self, choices: Sequence[dict[str, Any]]) -> None:
        """A chunk of the stream. Several completions grow at once, but the stream is one."""
        async with self._sending:
            if not self._outlet.started:
                await self._outlet.open(self._request.session_id)
            await self._outlet.event(pydantic_core.to_json({**self._base, "choices": choices}))

    async def _given(self, prompt: str | list[int]) -> Given:
        request, service = self._request, self._service
        if isinstance(prompt, str):
            words = await service.words_of(OpenRequest(text=prompt))
            return Given(prompt, words.ids, words.starts or (), words.ids)
        size, limit = len(self._tokenizer), service.settings.max_words
        if len(prompt) > limit:
            raise problems.too_many_words(len(prompt), limit)
        wrong = next((id for id in prompt if id >= size), None)
        if wrong is not None:
            raise problems.invalid_field("prompt", f"no word has the id {wrong}: ids go from 0 to {size - 1}")
        start = service.artifact.start_id if request.session_id is None else None
        return await asyncio.to_thread(given_ids, self._tokenizer, prompt, start)

    def _order(self) -> Order:
        request = self._request
        temperature = 1.0 if request.temperature is None else request.temperature
        texts = [request.stop] if isinstance(request.stop, str) else request.stop or []
        stops = {stop_words(self._tokenizer, text) for text in texts}
        return Order(
            16 if request.max_tokens is None else request.max_tokens,
            Sampling(temperature, None, request.top_p),
            request.seed,
            tuple(sorted(stops)),
            request.logprobs,
            bool(request.echo),
        )


async def _written(words: int, write: Callable[..., T], *arguments: Any) -> T:
    """What `write` makes of an answer of so many words."""
    if words <= INLINE_WORDS:
        return write(*arguments)
    return await asyncio.to_thread(write, *arguments)


async def _together(all_work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What each of them comes to; as soon as one fails, the others are ended, and its exception is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in all_work]
    except* Exception as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
