"""A whole session as bytes: every field of it, and the state in its slot."""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import astuple, fields
from operator import attrgetter
from typing import Any

from pydantic_core import to_json

from app.scheduler import Scheduler
from app.sessions import Session
from app.states import START
from app.stores.base import ForeignSessionError
from model.adaptation import Adaptation, Cache

#: The layout of a record, which is: the length of the JSON (4 bytes, little-endian), the JSON, then the bytes of each
#: field that is bytes or an array, in the order in which the JSON names them, then the state as `States.pack` gives it,
#: then, of a session that adapts, the pairs of its cache as `Cache.pack` gives them.
FORMAT = 1
#: The same of a session that adapts: the JSON tells how, and how many pairs there are.
ADAPTING_FORMAT = 2

_LENGTH = struct.Struct("<I")
_NAMES = tuple(field.name for field in fields(Session) if field.name not in ("state", "cache"))
_values = attrgetter(*_NAMES)
_PLAIN = {str, int, float, bool, type(None)}


def _described(value: Any, blobs: list[bytes]) -> Any:
    """What JSON can hold of a value; the rest goes to `blobs`."""
    if isinstance(value, bytes):
        blobs.append(value)
        return {"bytes": len(value)}
    if isinstance(value, array):
        blobs.append(value.tobytes())
        return {"array": value.typecode, "bytes": len(blobs[-1])}
    return [_described(item, blobs) for item in value] if isinstance(value, tuple) else value


class Records:
    """A `Codec` for the sessions of the model `model`, whose states `scheduler` keeps once it has loaded."""

    def __init__(self, scheduler: Scheduler, model: str, pairs: int) -> None:
        """`pairs`: to so many of its words a session adapts here, at most."""
        self._scheduler = scheduler
        self._model = model
        self._pairs = pairs

    def pack(self, session: Session) -> bytes:
        """The record."""
        plain: list[Any] = []
        blobs: list[bytes] = []
        for value in _values(session):
            plain.append(value if type(value) in _PLAIN else _described(value, blobs))
        begun = session.state != START
        cache = session.cache
        if cache is None:
            head = to_json([FORMAT, self._model, _NAMES, begun, plain])
        else:
            adapting = [*astuple(cache.adaptation), len(cache)]
            head = to_json([ADAPTING_FORMAT, self._model, _NAMES, begun, plain, adapting])
        parts = [_LENGTH.pack(len(head)), head, *blobs]
        if begun:
            parts.append(self._scheduler.states.pack(session.state))
            if cache is not None:
                parts.append(cache.pack())
        return b"".join(parts)

    def unpack(self, content: bytes) -> Session:
        """The session, its state in a slot taken for it.

        Raises:
            ForeignSessionError: the record is of another model or of another version of the service.
            UnavailableError: there is no slot.
        """
        (length,) = _LENGTH.unpack_from(content)
        at = _LENGTH.size + length
        number, model, names, begun, described, *adapting = json.loads(content[_LENGTH.size : at])
        if number not in (FORMAT, ADAPTING_FORMAT) or names != list(_NAMES):
            raise ForeignSessionError("the session was written by another version of this service")
        if model != self._model:
            raise ForeignSessionError(f"the session is of the model {model}, and this server has {self._model}")

        def valued(item: Any) -> Any:
            nonlocal at
            if isinstance(item, list):
                return tuple(map(valued, item))
            if not isinstance(item, dict):
                return item
            blob = content[at : at + item["bytes"]]
            at += item["bytes"]
            return array(item["array"], blob) if "array" in item else blob

        plain = dict(zip(_NAMES, map(valued, described), strict=True))
        states, cache = self._scheduler.states, None
        after_state = at + begun * states.bytes_each
        if adapting:
            *how, count = adapting[0]
            pairs, position = content[after_state:], plain["position"]
            # This server may be set to keep fewer than it did when the session was written.
            cache = Cache.unpack(
                Adaptation(*how), pairs, count=count, width=states.width, position=position, most=self._pairs
            )
        if not begun:
            return Session(state=START, cache=cache, **plain)
        slot = self._scheduler.take_state()
        states.unpack(slot, content[at:after_state])
        return Session(state=slot, cache=cache, **plain)
