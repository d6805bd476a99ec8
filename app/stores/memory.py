"""Sessions in this process's memory, the least recently used first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any

from app.sessions import Session
from app.stores.base import ConflictError, StoreFullError

#: At most so many sessions are cleared away at once, so that the event loop is not held up.
SWEEP = 500


_NAMES = tuple(field.name for field in fields(Session))
_STATE = _NAMES.index("state")
_REVISION = _NAMES.index("revision")
_OWNER = _NAMES.index("owner")
_fields_of = attrgetter(*_NAMES)


class MemoryStore:
    """At most `capacity` sessions; a new one takes the place of the one that has been left alone for longest.

    `free` takes back the slot of a state that is dropped. `in_use` says whether a request is working on a session:
    such a one is neither evicted nor expired.
    """

    def __init__(self, *, capacity: int, free: Callable[[int], None], in_use: Callable[[str], bool]) -> None:
        self.evictions = 0
        self._free = free
        self._capacity = capacity
        self._in_use = in_use
        # The fields of a `Session` in a tuple: of millions of those the garbage collector need not look at one.
        self._sessions: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
        self._owned: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """The sessions, the one left alone for longest first."""
        return (Session(*stored) for stored in self._sessions.values())

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

    async def load(self, session_id: str) -> Session | None:
        stored = self._sessions.get(session_id)
        return None if stored is None else Session(*stored)

    async def commit(self, session: Session, expected_revision: int | None) -> None:
        sessions = self._sessions
        stored = sessions.get(session.id)
        if (None if stored is None else stored[_REVISION]) != expected_revision:
            raise ConflictError(f"session {session.id} is not of revision {expected_revision}")
        if stored is None:
            if len(sessions) >= self._capacity:
                self._evict()
            sessions[session.id] = _fields_of(session)
            if session.owner:
                self._owned[session.owner] += 1
            return
        sessions[session.id] = _fields_of(session)
        sessions.move_to_end(session.id)
        if stored[_STATE] != session.state:
            self._free(stored[_STATE])

    async def delete(self, session_id: str) -> bool:
        stored = self._sessions.pop(session_id, None)
        if stored is None:
            return False
        self._dropped(stored)
        return True

    async def expire(self, now: float) -> int:
        over = []
        for session in self:
            if session.expires_at <= now:
                if not self._in_use(session.id):
                    over.append(session.id)
                    if len(over) == SWEEP:
                        break
            elif not session.long_lived:
                # Those after it were used later, and live as long: none of them is over. (One that was to live shorter
                # is refused from its hour on, and cleared away when its turn comes here.)
                break
        for session_id in over:
            await self.delete(session_id)
        if over and not self._sessions:
            self._sessions.clear()  # a dictionary keeps the room that it once needed
        return len(over)

    def _evict(self) -> None:
        for session_id, stored in self._sessions.items():
            if not self._in_use(session_id):
                del self._sessions[session_id]
                self._dropped(stored)
                self.evictions += 1
                return
        raise StoreFullError(f"all {self._capacity} sessions are in use")

    def _dropped(self, stored: tuple[Any, ...]) -> None:
        self._free(stored[_STATE])
        owner = stored[_OWNER]
        if owner:
            self._owned[owner] -= 1
            if not self._owned[owner]:
                del self._owned[owner]
