"""What a place for sessions owes the rest: `Store`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from app.sessions import Session


class ConflictError(RuntimeError):
    """The session has moved on since it was loaded: somebody else committed to it."""


class StoreFullError(RuntimeError):
    """There is no room for another session, and every one that is there is in use."""


class Store(Protocol):
    """Sessions by id. A `Session` is a value: what is stored changes by `commit`, as one, or not at all.

    Called on the event loop. A store owns the state slots of the sessions it holds and gives back the slot of every
    state that it drops.
    """

    async def load(self, session_id: str) -> Session | None:
        """The session, or None if it is not here (any more)."""

    async def commit(self, session: Session, expected_revision: int | None) -> None:
        """Put `session` in the place of the one with `expected_revision`; None: it is new.

        Raises:
            ConflictError: the stored session is of another revision, or gone, or there already.
            StoreFullError: it is new, and there is no room.
        """

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False if it is not here."""

    async def expire(self, now: float) -> int:
        """Forget all sessions whose time is over by `now` (seconds since 1970) and that are not in use; how many.

        A store may stop after some of them: call again until it returns 0.
        """

    def __iter__(self) -> Iterator[Session]:
        """All sessions that are here."""

    def __len__(self) -> int:
        """How many sessions are here."""

    def owned(self, owner: str) -> int:
        """How many of them are this owner's ("" is nobody, and not counted)."""
