"""What every request passes first: it gets an id, is counted, refused if it comes from a page elsewhere, and has its
line in the log, and its span, when it is over."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import problems
from app.caller import OWNER, REQUEST_ID
from app.histogram import SECONDS, Histogram
from app.logs import RequestLog
from app.security import Origins
from app.spans import Spans

#: What an id that a client brings may consist of, so that it can be logged and sent back as it is.
SANE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/+="
LONGEST_ID = 128

#: The status that a request is counted under when its client left before there was an answer.
CLIENT_LEFT = 499

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")


class Gate:
    """The outermost ASGI application. It adds no layer but itself, since it is on the way of every word.

    Routes are told apart by their templates, never by paths, so that there are as many as the service has.
    `direct` are the paths that are served without a router.
    """

    def __init__(self, app: ASGIApp, direct: frozenset[str], origins: Origins) -> None:
        self.log: RequestLog | None = None
        self.spans: Spans | None = None
        self.requests: dict[tuple[str, str, int], int] = {}  # (method, route, status)
        self.latencies: dict[str, Histogram] = {}  # by route, of answers that are no errors
        self._app = app
        self._direct = direct
        self._origins = origins
        self._prefix = secrets.token_hex(5)
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        given = origin = site = host = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"host":
                host = value
        if given and len(given) <= LONGEST_ID and not given.translate(None, SANE):
            raw_id = given
            request_id = given.decode("ascii")
        else:
            self._count += 1
            request_id = f"{self._prefix}{self._count:08x}"
            raw_id = request_id.encode("ascii")
        REQUEST_ID.set(request_id)
        status = CLIENT_LEFT
        readable = scope["method"] != "POST"

        def noting(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", raw_id), _NO_SNIFF]
                if readable and scope["path"].startswith("/v1"):
                    headers.append(_NO_STORE)
                message["headers"] = headers
            return send(message)

        app = self._app
        if (origin is not None or site is not None) and self._origins.refuses(scope["method"], origin, site, host):
            app = problems.foreign_origin((origin or b"another page").decode("latin-1")).response()
        try:
            await app(scope, receive, noting)
        finally:
            taken = perf_counter() - began
            path, method = scope["path"], scope["method"]
            if path in self._direct or ("endpoint" in scope and "route" not in scope):
                route = path  # Starlette's own routes, the page's files, do not say which they are, and have no parts
            else:
                route = getattr(scope.get("route"), "path", "unmatched")
            if method not in _METHODS:
                method = "other"
            key = (method, route, status)
            self.requests[key] = self.requests.get(key, 0) + 1
            if status < 400:
                latency = self.latencies.get(route)
                if latency is None:
                    latency = self.latencies[route] = Histogram(SECONDS)
                latency.observe(taken)
            if self.log is not None:
                self.log.put(method, route, status, taken, request_id, OWNER.get())
            if self.spans is not None:
                self.spans.put(scope, method, route, status, taken, request_id)
