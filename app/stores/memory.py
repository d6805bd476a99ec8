"""Sessions in this process's memory, the least recently used first."""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any

from app.sessions import Session
from app.stores.base import ConflictError, StoreFullError

#: At most so many sessions are cleared away at once, so that the event loop is not held up.
SWEEP = 500

#: Whether its time is over is looked up at least once in so many seconds of each session.
LOOK_SECONDS = 3600

_NAMES = tuple(field.name for field in fields(Session))
_ID = _NAMES.index("id")
_STATE = _NAMES.index("state")
_REVISION = _NAMES.index("revision")
_EXPIRES_AT = _NAMES.index("expires_at")
_OWNER = _NAMES.index("owner")
_CACHE = _NAMES.index("cache")
_LOOK = len(_NAMES)  # the second in which it is looked up again
_fields_of = attrgetter(*_NAMES)


def _session(stored: tuple[Any, ...]) -> Session:
    return Session(*stored[:_LOOK])


class MemoryStore:
    """At most `capacity` sessions, and `adapting` that adapt; a new one takes the place of the one that has been left
    alone for longest.

    `free` takes back the slot of a state that is dropped. `in_use` says whether a request is working on a session:
    such a one is neither evicted nor expired.
    """

    def __init__(
        self, *, capacity: int, adapting: int, free: Callable[[int], None], in_use: Callable[[str], bool]
    ) -> None:
        self.evictions = 0
        self._free = free
        self._capacity = capacity
        self._most_adapting = adapting
        self._in_use = in_use
        # A `Session`'s fields and _LOOK in a tuple: of millions of those the garbage collector need not look at one.
        self._sessions: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
        # Who is looked at in which second, and those seconds as a heap. A session that is used stays where it is: that
        # its time is not over shows when it is looked at. So no use costs anything, and no look goes through them all.
        self._looks: dict[int, dict[str, None]] = {}
        self._seconds: list[int] = []
        self._owned: Counter[str] = Counter()
        self._adapting: OrderedDict[str, int] = OrderedDict()  # bytes of the caches, in the same order
        self._cache_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """The sessions, the one left alone for longest first."""
        return map(_session, self._sessions.values())

    @property
    def away(self) -> str | None:
        return None

    @property
    def shared(self) -> bool:
        return False

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def refresh(self, session_id: str) -> bool:  # noqa: ARG002 - this is the only copy
        return False

    def tiers(self) -> dict[str, int]:
        return {"memory": len(self)}

    def owned(self, owner: str) -> int:
        return self._owned.get(owner, 0)

    def caches(self) -> tuple[int, int]:
        return len(self._adapting), self._cache_bytes

    async def load(self, session_id: str) -> Session | None:
        stored = self._sessions.get(session_id)
        return None if stored is None else _session(stored)

    async def commit(self, session: Session, expected_revision: int | None) -> None:
        sessions = self._sessions
        stored = sessions.get(session.id)
        if (None if stored is None else stored[_REVISION]) != expected_revision:
            raise ConflictError(f"session {session.id} is not of revision {expected_revision}")
        if stored is None:
            if session.cache is not None and len(self._adapting) >= self._most_adapting:
                self._evict(self._adapting)
            if len(sessions) >= self._capacity:
                self._evict(sessions)
            second = self._look_at(session.id, session.expires_at, session.expires_at - session.ttl)
            sessions[session.id] = (*_fields_of(session), second)
            self._count_cache(session)
            if session.owner:
                self._owned[session.owner] += 1
            return
        sessions[session.id] = (*_fields_of(session), stored[_LOOK])
        sessions.move_to_end(session.id)
        self._count_cache(session)
        if stored[_STATE] != session.state:
            self._free(stored[_STATE])

    async def delete(self, session_id: str) -> bool:
        stored = self._sessions.pop(session_id, None)
        if stored is None:
            return False
        self._dropped(stored)
        return True

    async def expire(self, now: float) -> int:
        over: list[str] = []
        later: list[tuple[tuple[Any, ...], float]] = []  # whom to look at again, and when
        while self._seconds and self._seconds[0] <= now and len(over) < SWEEP:
            looked = self._looks[self._seconds[0]]
            while looked and len(over) < SWEEP:
                session_id, _ = looked.popitem()
                stored = self._sessions[session_id]
                in_time = stored[_EXPIRES_AT] > now
                if in_time or self._in_use(session_id):
                    later.append((stored, stored[_EXPIRES_AT] if in_time else now))
                else:
                    over.append(session_id)
            if not looked:
                del self._looks[heapq.heappop(self._seconds)]
        for stored, until in later:
            self._sessions[stored[_ID]] = (*stored[:_LOOK], self._look_at(stored[_ID], until, now))
        for session_id in over:
            self._dropped(self._sessions.pop(session_id))
        if over and not self._sessions:
            self._sessions.clear()  # a dictionary keeps the room that it once needed
        return len(over)

    def _look_at(self, session_id: str, until: float, now: float) -> int:
        """Have a session looked at when its time may be over; the second."""
        second = math.ceil(min(until, now + LOOK_SECONDS))
        if second not in self._looks:
            self._looks[second] = {}
            heapq.heappush(self._seconds, second)
        self._looks[second][session_id] = None
        return second

    def _evict(self, among: Iterable[str]) -> None:
        for session_id in among:
            if not self._in_use(session_id):
                self._dropped(self._sessions.pop(session_id))
                self.evictions += 1
                return
        which = "sessions" if among is self._sessions else "sessions that adapt"
        raise StoreFullError(f"there is no room for another one: all {which} are in use")

    def _count_cache(self, session: Session) -> None:
        if session.cache is not None:
            adapting, size = self._adapting, session.cache.nbytes
            self._cache_bytes += size - adapting.get(session.id, 0)
            adapting[session.id] = size
            adapting.move_to_end(session.id)

    def _dropped(self, stored: tuple[Any, ...]) -> None:
        self._free(stored[_STATE])
        looked = self._looks.get(stored[_LOOK])
        if looked is not None:
            looked.pop(stored[_ID], None)
        if stored[_CACHE] is not None:
            self._cache_bytes -= self._adapting.pop(stored[_ID])
        owner = stored[_OWNER]
        if owner:
            self._owned[owner] -= 1
            if not self._owned[owner]:
                del self._owned[owner]
