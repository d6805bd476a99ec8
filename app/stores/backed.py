"""Sessions in a store outside of this process, and copies of those in use in its memory.

The store outside is the truth; a copy is only a guess that saves reading it. Every commit names the revision that it
goes on from, so one that was made of an old copy is refused, and the session is loaded anew.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from app.sessions import Session
from app.stores.base import ConflictError, StoreAwayError, StoreFullError
from app.stores.memory import MemoryStore

T = TypeVar("T")


class Codec(Protocol):
    """Sessions as bytes."""

    def pack(self, session: Session) -> bytes:
        """The whole session with the state in its slot."""

    def unpack(self, content: bytes) -> Session:
        """The session, its state in a slot of its own. Raises what the content deserves, and then takes no slot."""


class Backend(Protocol):
    """Bytes by session id, outside of this process. The futures fail with `StoreAwayError`."""

    @property
    def away(self) -> str | None:
        """See `Store.away`."""

    @property
    def evictions(self) -> int:
        """Sessions dropped for want of room, so far."""

    @property
    def count(self) -> int | None:
        """How many sessions are there; None: nobody counts them."""

    def owned(self, owner: str) -> int | None:
        """How many of them are this owner's; None: nobody counts them."""

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End, after all that was begun."""

    def read(self, session_id: str) -> Future[bytes | None]:
        """The content last written; None if there is none."""

    def revision(self, session_id: str) -> Future[int | None]:
        """Of the content last written; None if there is none."""

    def write(self, session: Session, expected_revision: int | None, content: bytes) -> Future[bool]:
        """Compare the revision and set the content, as one. False: it was another one.

        The future fails with `StoreFullError` too: the session is new, and there is no room.
        """

    def remove(self, session_id: str) -> Future[bool]:
        """False if there was none."""

    def expire(self, now: float) -> Future[list[str]]:
        """Ids of sessions cleared away."""


async def settled(future: Future[T]) -> T:
    """What comes of `future`, even if the waiting task is cancelled meanwhile: what has left cannot be called back."""
    while True:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise


class BackedStore:
    """A `Store` of what `backend` holds, with copies in `hot`, as many as that has room for.

    `free` takes back the slot of a state that is dropped.
    """

    shared = True

    def __init__(self, backend: Backend, codec: Codec, hot: MemoryStore, free: Callable[[int], None]) -> None:
        self._backend = backend
        self._codec = codec
        self._hot = hot
        self._free = free

    @property
    def away(self) -> str | None:
        return self._backend.away

    @property
    def evictions(self) -> int:
        return self._backend.evictions

    def __len__(self) -> int:
        count = self._backend.count
        return len(self._hot) if count is None else count

    def __iter__(self) -> Iterator[Session]:
        """The sessions with a copy here, the one left alone for longest first."""
        return iter(self._hot)

    def tiers(self) -> dict[str, int]:
        count = self._backend.count
        return self._hot.tiers() | ({} if count is None else {"store": count})

    def caches(self) -> tuple[int, int]:
        return self._hot.caches()

    def owned(self, owner: str) -> int:
        count = self._backend.owned(owner)
        return self._hot.owned(owner) if count is None else count

    async def open(self) -> None:
        await self._backend.open()

    async def close(self) -> None:
        await self._backend.close()

    async def load(self, session_id: str) -> Session | None:
        copy = await self._hot.load(session_id)
        if copy is not None:
            return copy
        content = await self._backend.read(session_id)
        if content is None:
            return None
        copy = await self._hot.load(session_id)
        if copy is None:  # nobody else has loaded it meanwhile
            copy = self._codec.unpack(content)
            try:
                await self._hot.commit(copy, None)
            except StoreFullError:
                self._free(copy.state)
                raise
        return copy

    async def refresh(self, session_id: str) -> bool:
        copy = await self._hot.load(session_id)
        if copy is None or await self._backend.revision(session_id) == copy.revision:
            return False
        await self._hot.delete(session_id)
        return True

    async def commit(self, session: Session, expected_revision: int | None) -> None:
        content = self._codec.pack(session)
        try:
            written = await settled(self._backend.write(session, expected_revision, content))
        except StoreAwayError:
            # Whether it was written is known by the store alone now.
            await self._hot.delete(session.id)
            raise
        if not written:
            raise ConflictError(f"session {session.id} is not of revision {expected_revision}")
        copy = await self._hot.load(session.id)
        try:
            await self._hot.commit(session, None if copy is None else copy.revision)
        except StoreFullError:
            self._free(session.state)

    async def delete(self, session_id: str) -> bool:
        removed = await settled(self._backend.remove(session_id))
        await self._hot.delete(session_id)
        return removed

    async def expire(self, now: float) -> int:
        over = await self._backend.expire(now)
        for session_id in over:
            await self._hot.delete(session_id)
        return len(over) or await self._hot.expire(now)

    def trim(self) -> None:
        self._hot.trim()
