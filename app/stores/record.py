"""A whole session as bytes: every field of it, and the state in its slot."""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import fields
from typing import Any

from app.scheduler import Scheduler
from app.sessions import Session
from app.states import START
from app.stores.base import ForeignSessionError

#: The layout of a record, which is: the length of the JSON (4 bytes, little-endian), the JSON, then the bytes of each
#: field that is bytes or an array, in the order in which the JSON names them, then the state as `States.pack` gives it.
FORMAT = 1

_LENGTH = struct.Struct("<I")
_NAMES = tuple(field.name for field in fields(Session) if field.name != "state")


class Records:
    """A `Codec` for the sessions of the model `model`, whose states `scheduler` keeps once it has loaded."""

    def __init__(self, scheduler: Scheduler, model: str) -> None:
        self._scheduler = scheduler
        self._model = model

    def pack(self, session: Session) -> bytes:
        """The record."""
        plain: dict[str, Any] = {}
        blobs: list[bytes] = []

        def described(value: Any) -> Any:
            if isinstance(value, bytes):
                blobs.append(value)
                return {"bytes": len(value)}
            if isinstance(value, array):
                blobs.append(value.tobytes())
                return {"array": value.typecode, "bytes": len(blobs[-1])}
            return [described(item) for item in value] if isinstance(value, tuple) else value

        for name in _NAMES:
            plain[name] = described(getattr(session, name))
        begun = session.state != START
        head = json.dumps({"format": FORMAT, "model": self._model, "begun": begun, "session": plain}).encode()
        parts = [_LENGTH.pack(len(head)), head, *blobs]
        if begun:
            parts.append(self._scheduler.states.pack(session.state))
        return b"".join(parts)

    def unpack(self, content: bytes) -> Session:
        """The session, its state in a slot taken for it.

        Raises:
            ForeignSessionError: the record is of another model or of another version of the service.
            UnavailableError: there is no slot.
        """
        (length,) = _LENGTH.unpack_from(content)
        at = _LENGTH.size + length
        head = json.loads(content[_LENGTH.size : at])
        if head["model"] != self._model:
            raise ForeignSessionError(f"the session is of the model {head['model']}, and this server has {self._model}")
        if head["format"] != FORMAT or head["session"].keys() != set(_NAMES):
            raise ForeignSessionError("the session was written by another version of this service")

        def valued(described: Any) -> Any:
            nonlocal at
            if isinstance(described, list):
                return tuple(map(valued, described))
            if not isinstance(described, dict):
                return described
            blob = content[at : at + described["bytes"]]
            at += described["bytes"]
            return array(described["array"], blob) if "array" in described else blob

        plain = {name: valued(head["session"][name]) for name in _NAMES}
        if not head["begun"]:
            return Session(state=START, **plain)
        slot = self._scheduler.take_state()
        self._scheduler.states.unpack(slot, content[at:])
        return Session(state=slot, **plain)
