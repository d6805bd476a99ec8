"""A request whose answer is worked out while it is sent: as one body, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import connection, problems
from app.problems import Problem
from app.requests import ClientLeftError, Headers, Watch, read_body
from app.service import Service


class Outlet:
    """Where the answer to one request goes.

    What a slow reader has not read yet waits in the connection, and `event` waits with it; words to come are kept as
    ids, and never more of them than the request may ask for.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def reply(self, body: bytes, session_id: str | None = None) -> None:
        """The whole answer, JSON."""
        self.started = True
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._start(headers, session_id)
        await self._send({"type": "http.response.body", "body": body})

    async def open(self, session_id: str | None = None) -> None:
        """Begin a stream."""
        self.started = True
        # The last one keeps a proxy from collecting events before it passes them on.
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._start(headers, session_id)

    async def event(self, data: bytes, name: bytes = b"") -> None:
        """One event of a stream; `data` is a single line. Raises `ClientLeftError` if nobody reads."""
        event = b"data: " + data + b"\n\n"
        if name:
            event = b"event: " + name + b"\n" + event
        try:
            async with asyncio.timeout(connection.READ_SECONDS):
                await self._send({"type": "http.response.body", "body": event, "more_body": True})
        except TimeoutError:
            raise ClientLeftError from None

    async def close(self) -> None:
        """End a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, headers: list[tuple[bytes, bytes]], session_id: str | None) -> None:
        if session_id is not None:
            headers.append((b"x-session-id", session_id.encode("ascii")))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})


Work = Callable[[Headers, bytes, Outlet], Awaitable[None]]


class Exchange(Response):
    """Reads a request, then has `work` answer it; cancels that when the client leaves.

    What goes wrong before the answer has begun is raised; afterwards it becomes the last event of the stream, as
    `failure` writes it.
    """

    def __init__(self, service: Service, work: Work, failure: Callable[[Problem], tuple[bytes, bytes]]) -> None:
        super().__init__()
        self._service = service
        self._work = work
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings, scheduler = self._service.settings, self._service.scheduler
        outlet = Outlet(send)
        scheduler.admit()
        try:
            headers = Headers(scope["headers"])
            body = await read_body(receive, headers, settings.max_body_bytes)
            async with Watch(scope, receive):
                await self._work(headers, body, outlet)
        except ClientLeftError:
            return
        except Exception as error:
            if not outlet.started:
                raise
            problem = problems.of_exception(error, retry_after=settings.retry_after_seconds)
            await outlet.event(*self._failure(problem))
            await outlet.close()
        finally:
            scheduler.release()
