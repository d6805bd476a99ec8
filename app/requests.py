"""What every route does with a request: read its body, notice its client leaving, match its session header."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import Receive, Scope

from app import problems

STATE_MEDIA_TYPE = b"application/vnd.nextword.state"


class ClientLeftError(Exception):
    """The client closed its connection before the request was read."""


class Headers:
    """The few request headers that are looked at, in one pass over the raw ones."""

    __slots__ = ("content_length", "content_type", "session_ids")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self.content_length = b""
        self.content_type = b""
        self.session_ids: list[bytes] | None = None
        for name, value in raw:
            if name == b"content-length":
                self.content_length = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"x-session-id":
                self.session_ids = [*(self.session_ids or ()), value]

    def match_session(self, session_id: str | None) -> None:
        """Raises a 400 `Problem` if the header names another session than the body or path."""
        if self.session_ids is None:
            return
        expected = b"" if session_id is None else session_id.encode("utf-8", "surrogatepass")
        for value in self.session_ids:
            if value != expected:
                named = "no session" if session_id is None else "another session"
                raise problems.bad_request(f"the header X-Session-Id names a session, and the request itself {named}")


async def read_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    """The whole body. Raises a 413 `Problem` as soon as it is known to be over `limit` bytes, `ClientLeftError`."""
    length = headers.content_length
    if length and length.isdigit() and int(length) > limit:
        raise problems.body_too_large(limit)
    message = await receive()
    if message["type"] != "http.request":
        raise ClientLeftError
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] != "http.request":
                raise ClientLeftError
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > limit:
                raise problems.body_too_large(limit)
        body = b"".join(parts)
    if len(body) > limit:
        raise problems.body_too_large(limit)
    return body


_NONE: dict[Any, Any] = {}


class Presence:
    """Whether the client of a connection is there, and what the request in hand does when it leaves."""

    __slots__ = ("ended", "leave")

    def __init__(self) -> None:
        self.ended = False
        self.leave: Callable[[], None] | None = None

    def end(self) -> None:
        self.ended = True
        if self.leave is not None:
            self.leave()


#: The extension of ASGI in which `app.connection` hands over its `Presence`.
EXTENSION = "nextword"


class Watch:
    """`async with`: cancels the request when its client leaves; `left` then says that it was for that.

    A server says so in answer to `receive`, which takes a task that waits for it, a seventh of what the event loop does
    for a word. A server that has a `Presence` is asked to call instead.
    """

    __slots__ = ("_presence", "_receive", "_request", "_task", "left")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._presence: Presence | None = scope.get("extensions", _NONE).get(EXTENSION, _NONE).get(Presence)
        self._task: asyncio.Task[None] | None = None
        self.left = False

    async def __aenter__(self) -> Watch:
        request = asyncio.current_task()
        if request is None:
            raise RuntimeError("a request is served in a task of its own")
        self._request = request
        if self._presence is None:
            self._task = asyncio.create_task(self._wait())
        elif self._presence.ended:
            self._leave()
        else:
            self._presence.leave = self._leave
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if self._task is not None:
            self._task.cancel()
        elif self._presence is not None:
            self._presence.leave = None
        return self.left and kind is asyncio.CancelledError and self._request.uncancel() == 0

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self.left = True
        self._request.cancel()
