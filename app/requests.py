"""What every route does with a request: read its body, notice its client leaving, match its session header."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import Receive

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


class Watch:
    """`async with`: cancels the request when its client leaves; `left` then says that it was for that."""

    __slots__ = ("_receive", "_request", "_task", "left")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.left = False

    async def __aenter__(self) -> Watch:
        request = asyncio.current_task()
        if request is None:
            raise RuntimeError("a request is served in a task of its own")
        self._request = request
        self._task = asyncio.create_task(self._wait())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        self._task.cancel()
        return self.left and kind is asyncio.CancelledError and self._request.uncancel() == 0

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._request.cancel()
