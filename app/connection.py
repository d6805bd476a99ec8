"""A client's connection: uvicorn's, except that the head of a reply leaves together with its body.

ASGI hands over a reply in two messages, and uvicorn writes each as it comes. Of a short reply the second system call,
the second packet and the second time that the client wakes up cost more than it takes to put the reply together.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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

    def on_response_complete(self) -> None:
        self.transport.flush()  # to HEAD there is no body
        super().on_response_complete()
