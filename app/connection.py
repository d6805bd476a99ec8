"""A client's connection: uvicorn's, but for two things that cost more than it takes to put a reply together, and some
that have no limit there.

- ASGI hands over a reply in two messages, and uvicorn writes each as it comes: a second system call, a second packet,
  a client that wakes up twice. Here the head of a reply leaves together with its body.
- That a client has left is called out, see `app.requests.Presence`, so that no task need wait for it.
- uvicorn keeps all that comes before a body and after it, however long, and waits for the rest of a request without an
  end, while the service counts it as being served; here that ends the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import problems
from app.problems import Problem
from app.requests import EXTENSION, Presence

#: The most bytes of a request's first line and headers, and of what else is no body; the last read may go past it.
LONGEST_HEAD = 1 << 16

#: A request has so many seconds to arrive, and as many again for each `ARRIVING_BYTES` of it.
ARRIVING_SECONDS = 60.0
ARRIVING_BYTES = 1 << 16


_LATE = problems.request_timeout()


class Transport(asyncio.Transport):
    """Keeps a head that announces how long its body is until something follows, or until `flush`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:  # type: ignore[override]  # uvicorn writes nothing else
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class Connection(HttpToolsProtocol):
    """What uvicorn makes of each connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport: Transport = Transport(transport)
        self._pending = 0  # bytes that came since the last head was complete, or the last part of a body was there
        self._arriving = False  # whether there is a request that is not whole
        self._arrived = 0  # bytes of it that came since the timer was set
        self._timer: asyncio.TimerHandle | None = None
        self._presence = Presence()
        self._extensions: dict[str, dict[object, object]] = {EXTENSION: {Presence: self._presence}}

    def data_received(self, data: bytes) -> None:
        if self._pending > LONGEST_HEAD:
            self._refuse("431 Request Header Fields Too Large", problems.head_too_large(LONGEST_HEAD))
            return
        self._pending += len(data)
        super().data_received(data)
        if self._arriving:  # hardly ever: a request mostly comes in one piece
            self._arrived += len(data)
            if self._timer is None or self._arrived >= ARRIVING_BYTES:
                self._stop_timer()
                self._timer = self.loop.call_later(ARRIVING_SECONDS, self._refuse, "408 Request Timeout", _LATE)

    def on_headers_complete(self) -> None:
        self._pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._arriving = False
        if self._timer is not None:
            self._stop_timer()
        super().on_message_complete()

    def _stop_timer(self) -> None:
        self._arrived = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: str, problem: Problem) -> None:
        """End the connection; say why, unless an answer is under way."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = bytes(problem.response().body)
            head = (
                f"HTTP/1.1 {status}\r\ncontent-type: {problems.MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        self._presence.end()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = True
        self.scope["extensions"] = self._extensions

    def on_response_complete(self) -> None:
        self.transport.flush()  # to HEAD there is no body
        super().on_response_complete()
