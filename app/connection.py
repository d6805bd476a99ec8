"""A client's connection: uvicorn's, but for two things that cost more than it takes to put a reply together, some
that have no limit there, and one that is lost.

- ASGI hands over a reply in two messages, and uvicorn writes each as it comes: a second system call, a second packet,
  a client that wakes up twice. Here the head of a reply leaves together with its body.
- That a client has left is called out, see `app.requests.Presence`, so that no task need wait for it.
- uvicorn keeps all that comes before a body and after it, however long, waits for the rest of a request without an
  end, while the service counts it as being served, and keeps a reply for as long as nobody reads it; here that ends
  the connection. What is no request is refused as a problem, after what came before it is answered.
- A client may offer to go on in another protocol, as Java's and `curl --http2` do unless they know better. The parser
  then takes the body for words of that protocol. The offer may be ignored (RFC 9110, section 7.8), and here the request
  is read again without it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import problems
from app.problems import Problem
from app.requests import EXTENSION, Presence

#: The most bytes of a request's first line and headers, and of what else is no body; the last read may go past it.
LONGEST_HEAD = 1 << 16

#: A request has so many seconds to arrive, and as many again for each `ARRIVING_BYTES` of it.
ARRIVING_SECONDS = 60.0
ARRIVING_BYTES = 1 << 16

#: A client that, while more waits for it than the connection takes, reads less than `READ_BYTES` in so many seconds
#: counts as having left.
READ_SECONDS = 60.0
READ_BYTES = 1 << 15

_LATE = "408 Request Timeout", problems.request_timeout()
_TOO_LONG = "431 Request Header Fields Too Large", problems.head_too_large(LONGEST_HEAD)
_NO_REQUEST = "400 Bad Request", problems.bad_request("this is no HTTP/1.1 request")


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

    def abort(self) -> None:
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

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
        self._headed = False  # whether its head is there, and so `cycle` is of it
        self._arrived = 0  # bytes of it that came since the timer was set
        self._timer: asyncio.TimerHandle | None = None
        self._refusal = b""  # what is still to be said, when all that came before it is answered
        self._unread = 0  # bytes that waited for the client when it was last looked at
        self._reading: asyncio.TimerHandle | None = None
        self._presence = Presence()
        self._extensions: dict[str, dict[object, object]] = {EXTENSION: {Presence: self._presence}}

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        if self._pending > LONGEST_HEAD:
            self._refuse(*_TOO_LONG)
            return
        self._pending += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(*_NO_REQUEST)
            return
        if self._arriving:  # hardly ever: a request mostly comes in one piece
            self._arrived += len(data)
            if self._timer is None or self._arrived >= ARRIVING_BYTES:
                self._stop_timer()
                self._timer = self.loop.call_later(ARRIVING_SECONDS, self._refuse, *_LATE)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.scope["method"] == "CONNECT":
                raise httptools.HttpParserError("this is no proxy") from None
            again = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            for name, value in self.headers:
                if name == b"connection":
                    value = b", ".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")
                if name != b"upgrade":
                    again.append(name + b": " + value)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            self._feed(b"\r\n".join(again) + b"\r\n\r\n" + data[offer.args[0] :])

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            return  # the head is read again, see `_feed`
        self._pending = 0
        self._headed = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
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
        """Say why nothing more is taken and end the connection, once all that came before is answered."""
        if self.transport.is_closing() or self._refusal:
            return
        self._stop_timer()
        body = bytes(problem.response().body)
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: {problems.MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        begun = self._arriving and self._headed  # so that `cycle` is of what is refused
        waiting = bool(self.pipeline)
        if begun and waiting:
            self.pipeline.popleft()  # whose turn has not come, and now does not
        if waiting or not (begun or self.cycle is None or self.cycle.response_complete):
            self._refusal = head.encode("ascii") + body
            return
        if not (begun and self.cycle.response_started):
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_on()

    def _look_on(self) -> None:
        """Look whether anything is read."""
        self._unread = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(READ_SECONDS, self._has_it_read)

    def _has_it_read(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread - READ_BYTES:
            self.transport.abort()
        else:
            self._look_on()

    def resume_writing(self) -> None:
        self._look_away()
        super().resume_writing()

    def _look_away(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        self._look_away()
        self._presence.end()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving, self._headed = True, False
        self.scope["extensions"] = self._extensions

    def on_response_complete(self) -> None:
        self.transport.flush()  # to HEAD there is no body
        last = not self.pipeline
        super().on_response_complete()
        if self._refusal and last and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()
