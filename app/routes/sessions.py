"""`/v1/sessions`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app import replies
from app.problems import Problem
from app.requests import STATE_MEDIA_TYPE, ClientLeftError, Headers, Watch, read_body
from app.schemas import OpenRequest, SessionReply
from app.service import Service
from app.sessions import Session


def router(service: Service, body: dict[str, Any], problem: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes; `body` documents `OpenRequest`, `problem` the errors."""
    routes = APIRouter(prefix="/v1/sessions", tags=["sessions"])
    shown: dict[int | str, dict[str, Any]] = {200: {"model": SessionReply}, **problem}
    created: dict[int | str, dict[str, Any]] = {201: {"model": SessionReply}, **problem}

    def reply(session: Session, status: int) -> Response:
        headers = {"x-session-id": session.id}
        if status == 201:
            headers["location"] = f"/v1/sessions/{session.id}"
        return Response(replies.session(service, session), status, headers, "application/json")

    @routes.post("", responses=created, status_code=201, openapi_extra=body)
    async def open_session(request: Request) -> Response:
        """Open a session, and consume words if there are any."""
        service.scheduler.admit()
        try:
            headers = Headers(request.scope["headers"])
            if headers.content_type.partition(b";")[0].strip().lower() == STATE_MEDIA_TYPE:
                raise Problem(415, "unsupported-media-type", "only application/json is taken here")
            content = await read_body(request.receive, headers, service.settings.max_body_bytes)
            opening = OpenRequest.model_validate_json(content or b"{}")
            headers.match_session(None)
            session: Session | None = None
            async with Watch(request.receive):
                session = await service.open(opening)
            if session is None:
                return Response(status_code=499)  # to nobody
            return reply(session, 201)
        except ClientLeftError:
            return Response(status_code=499)
        finally:
            service.scheduler.release()

    @routes.get("/{session_id}", responses=shown)
    async def get_session(session_id: str, request: Request) -> Response:
        """A session as it is now. Looking does not prolong its life."""
        Headers(request.scope["headers"]).match_session(session_id)
        return reply(await service.show(session_id), 200)

    @routes.delete("/{session_id}", responses=problem, status_code=204)
    async def delete_session(session_id: str, request: Request) -> Response:
        """Forget a session."""
        Headers(request.scope["headers"]).match_session(session_id)
        await service.delete(session_id)
        return Response(status_code=204, headers={"x-session-id": session_id})

    return routes
