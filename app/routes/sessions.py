"""`/v1/sessions`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app import branches, replies, transfer
from app.problems import Problem
from app.requests import STATE_MEDIA_TYPE, ClientLeftError, Headers, Watch, read_body
from app.schemas import ForkRequest, OpenRequest, RewindRequest, SessionReply, TraceQuery, TraceReply
from app.service import Service
from app.sessions import Session
from app.trace import trace

_FILE = {STATE_MEDIA_TYPE.decode(): {"schema": {"type": "string", "format": "binary"}}}


def router(service: Service, problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes; `problem` documents the errors."""
    routes = APIRouter(prefix="/v1/sessions", tags=["sessions"])
    shown: dict[int | str, dict[str, Any]] = {200: {"model": SessionReply}, **problem}
    created: dict[int | str, dict[str, Any]] = {201: {"model": SessionReply}, **problem}
    traced: dict[int | str, dict[str, Any]] = {200: {"model": TraceReply}, **problem}
    filed: dict[int | str, dict[str, Any]] = {200: {"description": "The file.", "content": _FILE}, **problem}

    def reply(session: Session, status: int) -> Response:
        headers = {"x-session-id": session.id}
        if status == 201:
            headers["location"] = f"/v1/sessions/{session.id}"
        return Response(replies.session(service, session), status, headers, "application/json")

    async def served(
        request: Request, session_id: str | None, work: Callable[[Headers, bytes], Awaitable[Response]]
    ) -> Response:
        """What `work` answers to the body; it is cancelled when the client leaves."""
        service.scheduler.admit()
        try:
            headers = Headers(request.scope["headers"])
            limit = service.settings.max_body_bytes
            if _is_file(headers):
                # What is handed out here is taken here, whatever else is too long.
                limit = max(limit, transfer.largest(service))
            content = await read_body(request.receive, headers, limit)
            headers.match_session(session_id)
            response: Response | None = None
            async with Watch(request.scope, request.receive):
                response = await work(headers, content)
            return Response(status_code=499) if response is None else response  # to nobody
        except ClientLeftError:
            return Response(status_code=499)
        finally:
            service.scheduler.release()

    @routes.post("", responses=created, status_code=201, openapi_extra=_body(OpenRequest, required=False, **_FILE))
    async def open_session(request: Request) -> Response:
        """Open a session, and consume words if there are any; or have one live on that was exported as a file."""

        async def work(headers: Headers, content: bytes) -> Response:
            if _is_file(headers):
                return reply(await transfer.carry_in(service, content), 201)
            return reply(await service.open(OpenRequest.model_validate_json(content or b"{}")), 201)

        return await served(request, None, work)

    @routes.get("/{session_id}", responses=shown)
    async def get_session(session_id: str, request: Request) -> Response:
        """A session as it is now. Looking does not prolong its life."""

        async def work(_: Headers, __: bytes) -> Response:
            return reply(await service.show(session_id), 200)

        return await served(request, session_id, work)

    @routes.delete("/{session_id}", responses=problem, status_code=204)
    async def delete_session(session_id: str, request: Request) -> Response:
        """Forget a session."""

        async def work(_: Headers, __: bytes) -> Response:
            await service.delete(session_id)
            return Response(status_code=204, headers={"x-session-id": session_id})

        return await served(request, session_id, work)

    @routes.post(
        "/{session_id}/fork", responses=created, status_code=201, openapi_extra=_body(ForkRequest, required=False)
    )
    async def fork_session(session_id: str, request: Request) -> Response:
        """Open a session that has consumed the first words of this one, or all of them. This one is unchanged."""

        async def work(headers: Headers, content: bytes) -> Response:
            _refuse_file(headers)
            forking = ForkRequest.model_validate_json(content or b"{}")
            return reply(await branches.fork(service, session_id, forking.position), 201)

        return await served(request, session_id, work)

    @routes.post("/{session_id}/rewind", responses=shown, openapi_extra=_body(RewindRequest, required=True))
    async def rewind_session(session_id: str, request: Request) -> Response:
        """Go back: afterwards the session is as if nothing after `position` had been consumed."""

        async def work(headers: Headers, content: bytes) -> Response:
            _refuse_file(headers)
            rewinding = RewindRequest.model_validate_json(content)
            return reply(await branches.rewind(service, session_id, rewinding.position), 200)

        return await served(request, session_id, work)

    @routes.get("/{session_id}/state", responses=filed, response_class=Response)
    async def export_session(session_id: str, request: Request) -> Response:
        """The whole session as one file, for `POST /v1/sessions` here or on another server with the same model."""

        async def work(_: Headers, __: bytes) -> Response:
            content = await transfer.carry_out(service, session_id)
            return Response(content, 200, {"x-session-id": session_id}, STATE_MEDIA_TYPE.decode())

        return await served(request, session_id, work)

    @routes.get("/{session_id}/trace", responses=traced, openapi_extra={"parameters": _parameters(TraceQuery)})
    async def trace_session(session_id: str, request: Request) -> Response:
        """For drawing: the last words, each with what might have come next and each layer's hidden state."""

        async def work(_: Headers, __: bytes) -> Response:
            query = TraceQuery.model_validate_strings(dict(request.query_params))
            session, moments = await trace(service, session_id, query.last)
            return Response(
                replies.trace(service, session, moments), 200, {"x-session-id": session.id}, "application/json"
            )

        return await served(request, session_id, work)

    return routes


def _media_type(headers: Headers) -> bytes:
    return headers.content_type.partition(b";")[0].strip().lower()


def _is_file(headers: Headers) -> bool:
    return _media_type(headers) == STATE_MEDIA_TYPE


def _refuse_file(headers: Headers) -> None:
    if _is_file(headers):
        raise Problem(415, "unsupported-media-type", "only application/json is taken here")


def _body(schema: type[BaseModel], *, required: bool, **others: Any) -> dict[str, Any]:
    document = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    document.pop("$defs", None)  # `app.openapi` has them
    content = {"application/json": {"schema": document}, **others}
    return {"requestBody": {"required": required, "content": content}}


def _parameters(schema: type[BaseModel]) -> list[dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = schema.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "description": field.pop("description"), "schema": field}
        for name, field in fields.items()
    ]
