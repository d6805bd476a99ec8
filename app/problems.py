"""Every error that leaves the service, as RFC 9457 problem details. Nowhere else is an error mapped to HTTP."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

import pydantic_core
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.caller import REQUEST_ID
from app.engine import RuntimeFailedError
from app.scheduler import UnavailableError
from app.sessions import NoSuchSessionError, PositionConflictError, SessionGoneError
from app.state_file import StateFileError
from app.stores.base import ConflictError, ForeignSessionError, StoreAwayError, StoreFullError
from model.runtimes.base import DeviceMemoryError, StateLostError

log = logging.getLogger("nextword")

MEDIA_TYPE = "application/problem+json"

_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid field",
    429: "Too many requests",
    431: "Too large",
    500: "Internal error",
    503: "Unavailable",
}


#: How Pydantic names types in places, besides names with brackets.
_TYPES = frozenset({"str", "int", "float", "bool"})


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An answer that is an error. `fields` are members of its own beside type, title, status and detail."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.fields = dict(fields or {})

    def response(self) -> Response:
        body = {
            "type": f"urn:nextword:problem:{self.kind}",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "message": self.detail,  # once more, where OpenAI's clients look for it
            **self.fields,
        }
        return Response(pydantic_core.to_json(body), self.status, self.headers, MEDIA_TYPE)


def bad_request(detail: str) -> Problem:
    return Problem(400, "bad-request", detail)


def invalid_field(field: str, message: str) -> Problem:
    """422 for one field."""
    return Problem(
        422, "invalid-field", f"{field}: {message}", fields={"errors": [{"field": field, "message": message}]}
    )


def body_too_large(limit: int) -> Problem:
    # The rest of the body is not read, so the connection is of no use any more.
    detail = f"the body is larger than {limit} bytes, the most that is accepted"
    return Problem(413, "body-too-large", detail, headers={"connection": "close"}, fields={"limit": limit})


def foreign_origin(origin: str) -> Problem:
    detail = f"pages of {origin} may change nothing here; start the service with --cors-origins and name their origin"
    return Problem(403, "foreign-origin", detail)


def head_too_large(limit: int) -> Problem:
    detail = f"the first line and the headers of the request are longer than {limit} bytes, the most that is accepted"
    return Problem(431, "head-too-large", detail, fields={"limit": limit})


def request_timeout() -> Problem:
    return Problem(408, "request-timeout", "the request did not arrive in time; send it again")


def too_many_words(count: int, limit: int) -> Problem:
    detail = f"{count} words are more than one request may bring, {limit}; send them in several requests"
    return Problem(413, "too-many-words", detail, fields={"words": count, "limit": limit})


def answer_too_large(words: int, each: int, limit: int) -> Problem:
    """`words` of an answer with `each` predictions beside them, where `limit` is the most of both together."""
    beside = f" with {each} predictions each" if each else ""
    detail = (
        f"the answer may come to {words} words{beside}, and {limit} is the most for one request; lower `max_tokens`, "
        "`n` or `logprobs`, or send the prompts in several requests"
    )
    return Problem(413, "answer-too-large", detail, fields={"words": words, "limit": limit})


def too_many_sessions(limit: int, retry_after: int) -> Problem:
    detail = f"this key has {limit} sessions, the most it may have at once; delete one, or wait until one expires"
    return Problem(
        429, "too-many-sessions", detail, headers={"retry-after": str(max(1, retry_after))}, fields={"limit": limit}
    )


#: So many errors are looked at: Pydantic has them all or none, and of those in 1 MB all take seconds.
_MOST_ERRORS = 1000

#: What may be otherwise in a moment.
_UNAVAILABLE = UnavailableError, StoreAwayError, StoreFullError, RuntimeFailedError, DeviceMemoryError, StateLostError


def of_validation(error: ValidationError) -> Problem:
    """400 for what is not JSON, else 422 naming what is wrong, unless that is more than anyone would read."""
    count = error.error_count()
    if count > _MOST_ERRORS:
        return Problem(422, "invalid-field", f"{count} things are wrong with this body: see /docs for what it may have")
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return Problem(400, "not-json", errors[0]["msg"])
    items = [
        {"field": _field(item["loc"]), "message": item["msg"].removeprefix("Value error, ")} for item in errors[:20]
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in items)
    return Problem(422, "invalid-field", detail, fields={"errors": items})


def _field(place: tuple[int | str, ...]) -> str:
    """The field's own name. Behind it, Pydantic says which of several types it tried: that is none of the client's."""
    parts = list(place)
    for end, part in enumerate(parts[1:], 1):
        if isinstance(part, str) and (part in _TYPES or not part.isidentifier()):
            del parts[end:]
            break
    return ".".join(map(str, parts)) or "body"


def of_exception(error: BaseException, *, retry_after: int) -> Problem:
    """The problem that an exception is to the client; a defect (500) is logged here, under the id that is told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return of_validation(error)
    if isinstance(error, PositionConflictError):
        # Clients that retry a 409 by themselves are told that this one cannot be mended so.
        headers, fields = {"x-should-retry": "false"}, {"position": error.position}
        if error.earliest is not None:
            fields["earliest"] = error.earliest
        return Problem(409, "position-conflict", str(error), headers=headers, fields=fields)
    if isinstance(error, StateFileError):
        return Problem(400, "bad-state-file", str(error))
    if isinstance(error, ForeignSessionError):
        return Problem(409, "other-model", str(error), headers={"x-should-retry": "false"})
    if isinstance(error, ConflictError):
        return Problem(409, "session-conflict", str(error))
    if isinstance(error, NoSuchSessionError):
        return Problem(404, "no-such-session", str(error))
    if isinstance(error, SessionGoneError):
        return Problem(410, "session-gone", str(error))
    if isinstance(error, _UNAVAILABLE):
        return Problem(503, "unavailable", str(error), headers={"retry-after": str(retry_after)})
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "http", _http_detail(error), headers=error.headers)
    request_id = REQUEST_ID.get() or secrets.token_hex(8)
    log.error("request %s failed: %s", request_id, error, exc_info=error)
    detail = f"a defect of the service; it is in the log as {request_id}, and the session is as it was"
    return Problem(500, "defect", detail, fields={"request_id": request_id})


def _http_detail(error: HTTPException) -> str:
    if error.status_code == 405:
        return f"this path takes {(error.headers or {}).get('Allow', 'another method')} only"
    if error.status_code == 404:
        return "there is nothing at this path"
    return str(error.detail)


class ProblemMiddleware:
    """Answers with a problem whatever goes wrong further in."""

    def __init__(self, app: ASGIApp, retry_after: int) -> None:
        self._app = app
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await of_exception(error, retry_after=self._retry_after).response()(scope, receive, send)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself raises: no such path, no such method."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        # Starlette names the methods of one route only, and a path may have several.
        path = getattr(request.scope.get("route"), "path", request.scope["path"])
        routes = [route for route in iter_route_contexts(request.app.routes) if route.path == path]
        allowed = sorted({method for route in routes for method in route.methods or ()})
        error = HTTPException(405, headers={"Allow": ", ".join(allowed)})
    return of_exception(error, retry_after=0).response()


def add_header(message: Message, name: str, value: str) -> None:
    """Set a header of an `http.response.start` message."""
    MutableHeaders(scope=message)[name] = value
