"""HTTP/1.1 replies as a load generator reads them: their status, their length, and no more."""

from __future__ import annotations

from typing import NamedTuple

_END_OF_HEADERS = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class MalformedReplyError(ValueError):
    """Bytes that are no HTTP/1.1 reply with a content-length."""


class Reply(NamedTuple):
    """A whole reply at the beginning of some bytes: `status`; the body is `data[body:end]`."""

    status: int
    body: int
    end: int


def parse(data: bytes) -> Reply | None:
    """The reply that `data` begins with, or None while more bytes have to come. Raises MalformedReplyError.

    >>> parse(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
    Reply(status=200, body=38, end=40)
    >>> parse(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{") is None
    True
    """
    at = data.find(_END_OF_HEADERS)
    if at < 0:
        return None
    body = at + len(_END_OF_HEADERS)
    place = data.find(_LENGTH, 0, at)
    if data.startswith(b"HTTP/1.1 204 "):  # never has a body
        return Reply(204, body, body)
    if place < 0:  # most servers write it so; the others are read more slowly
        place = data[:at].lower().find(_LENGTH)
    if place < 0 or not data.startswith(b"HTTP/1.1 "):
        raise MalformedReplyError(f"no HTTP/1.1 reply with a content-length: {data[:80]!r}")
    start = place + len(_LENGTH)
    try:
        length = int(data[start : data.index(b"\r\n", start)])
        status = int(data[9:12])
    except ValueError as error:
        raise MalformedReplyError(f"no HTTP/1.1 reply: {data[:80]!r}") from error
    return Reply(status, body, body + length) if len(data) >= body + length else None
