"""Sessions in this process's memory, the least recently used first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np

from app.sessions import Session
from app.stores import packed
from app.stores.base import ConflictError, StoreFullError
from app.stores.table import Table
from model.adaptation import Cache

#: At most so many sessions are cleared away at once, so that the event loop is not held up.
SWEEP = 500

#: So many sessions are at hand as they are, beside the table that has all, so that while one goes on word by word its
#: record need neither be found nor read again.
AT_HAND = 1024


class MemoryStore:
    """At most `capacity` sessions, and `adapting` that adapt; a new one takes the place of the one that has been left
    alone for longest. With `copies`, which may go for they are elsewhere too, there are more that adapt while all of
    them are in use: as many as that.

    `free` takes back the slot of a state that is dropped. `in_use` says whether a request is working on a session:
    such a one is neither evicted nor expired.
    """

    def __init__(
        self,
        *,
        capacity: int,
        adapting: int,
        free: Callable[[int], None],
        in_use: Callable[[str], bool],
        copies: bool = False,
    ) -> None:
        self.evictions = 0
        self._free = free
        self._capacity = capacity
        self._most_adapting = adapting
        self._in_use = in_use
        self._copies = copies
        self._table = Table(capacity, name_at=packed.NAME_AT)
        self._at_hand: OrderedDict[str, tuple[int, Session]] = OrderedDict()  # with their rows
        self._over = np.empty(0, np.int64)  # rows that were over when all were looked at
        self._owned: Counter[str] = Counter()
        self._caches: OrderedDict[str, Cache] = OrderedDict()  # of those that adapt, in the same order
        self._cache_bytes = 0

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Session]:
        """The sessions, the one left alone for longest first."""
        return map(self._session, self._table)

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
        return len(self._caches), self._cache_bytes

    async def load(self, session_id: str) -> Session | None:
        return self._find(session_id)[1]

    async def commit(self, session: Session, expected_revision: int | None) -> None:
        row, before = self._find(session.id)
        if (None if before is None else before.revision) != expected_revision:
            raise ConflictError(f"session {session.id} is not of revision {expected_revision}")
        table, record = self._table, packed.pack(session)
        if before is not None:
            table.use(row, record, session.expires_at)
            self._at_hand[session.id] = row, session
            self._keep_cache(session)
            if before.state != session.state:
                self._free(before.state)
            return
        if session.cache is not None and len(self._caches) >= self._most_adapting:
            if self._copies:
                self._thin(self._most_adapting - 1)
            else:
                self._evict(map(self._row, self._caches), "sessions that adapt")
        if len(table) >= self._capacity:
            self._evict(table, "sessions")
        row = table.add(packed.name_of(session.id), record, session.expires_at)
        self._have_at_hand(row, session)
        self._keep_cache(session)
        if session.owner:
            self._owned[session.owner] += 1

    async def delete(self, session_id: str) -> bool:
        row = self._row(session_id)
        if row:
            self._drop(row)
        return row != 0

    async def expire(self, now: float) -> int:
        if self._copies:
            self._thin(self._most_adapting)
        if not len(self._over):
            self._over = self._table.over(now)
        dropped = 0
        while len(self._over) and not dropped:
            some, self._over = self._over[:SWEEP].tolist(), self._over[SWEEP:]
            for row in some:
                # It may have been used, or may even be another session's, since all were looked at.
                if self._table.is_over(row, now) and not self._in_use(packed.id_of(self._table.record(row))):
                    self._drop(row)
                    dropped += 1
        return dropped

    def trim(self) -> None:
        self._at_hand.clear()
        self._table.trim()

    def _find(self, session_id: str) -> tuple[int, Session | None]:
        found = self._at_hand.get(session_id)
        if found is not None:
            return found
        row, content = self._table.find(packed.name_of(session_id))
        if not row:
            return 0, None
        session = packed.unpack(session_id, content, self._caches.get(session_id))
        self._have_at_hand(row, session)
        return row, session

    def _have_at_hand(self, row: int, session: Session) -> None:
        if len(self._at_hand) >= AT_HAND:
            self._at_hand.popitem(last=False)
        self._at_hand[session.id] = row, session

    def _row(self, session_id: str) -> int:
        return self._find(session_id)[0]

    def _session(self, row: int) -> Session:
        content = self._table.record(row)
        session_id = packed.id_of(content)
        return packed.unpack(session_id, content, self._caches.get(session_id))

    def _evict(self, among: Iterable[int], which: str) -> None:
        for row in among:
            if not self._in_use(packed.id_of(self._table.record(row))):
                self._drop(row)
                self.evictions += 1
                return
        raise StoreFullError(f"there is no room for another one: all {which} are in use")

    def _thin(self, most: int) -> None:
        """Drop copies that adapt and that no request is working on, until there are `most` or no such is left."""
        more = len(self._caches) - most
        if more > 0:
            idle = (session_id for session_id in self._caches if not self._in_use(session_id))
            for session_id in list(islice(idle, more)):
                self._drop(self._row(session_id))
                self.evictions += 1

    def _keep_cache(self, session: Session) -> None:
        if session.cache is None:
            return
        before = self._caches.get(session.id)
        self._cache_bytes += session.cache.nbytes - (0 if before is None else before.nbytes)
        self._caches[session.id] = session.cache
        self._caches.move_to_end(session.id)

    def _drop(self, row: int) -> None:
        session = self._session(row)
        self._at_hand.pop(session.id, None)
        self._table.remove(row)
        self._free(session.state)
        if session.cache is not None:
            self._cache_bytes -= self._caches.pop(session.id).nbytes
        owner = session.owner
        if owner:
            self._owned[owner] -= 1
            if not self._owned[owner]:
                del self._owned[owner]
