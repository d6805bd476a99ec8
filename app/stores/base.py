"""What a place for sessions owes the rest: `Store`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from app.sessions import Session


class ConflictError(RuntimeError):
    """The session has moved on since it was loaded: somebody else committed to it."""


class StoreFullError(RuntimeError):
    """There is no room for another session, and every one that is there is in use."""


class StoreAwayError(RuntimeError):
    """The store cannot be reached or cannot write now; the client may try again later."""


class ForeignSessionError(RuntimeError):
    """The session was made by another model or another version of the service."""


class StoreRefusedError(ValueError):
    """What was named as the store cannot be used; one line that says what is wrong and what to do."""


class Store(Protocol):
    """Sessions by id. A `Session` is a value: what is stored changes by `commit`, as one, or not at all.

    Called on the event loop. A store owns the state slots of the sessions it holds and gives back the slot of every
    state that it drops.
    """

    @property
    def evictions(self) -> int:
        """Sessions dropped for want of room, so far."""

    @property
    def away(self) -> str | None:
        """Why the store cannot be used now; None: it can."""

    @property
    def shared(self) -> bool:
        """Whether others may change its sessions, so that what `load` gives can be out of date until `refresh`."""

    async def open(self) -> None:
        """Begin; the state slots are there."""

    async def close(self) -> None:
        """The end: nothing is being done with it any more."""

    async def load(self, session_id: str) -> Session | None:
        """The session, or None if it is not here (any more).

        In a shared store this may be a copy that somebody else has moved on from. Then `commit` will refuse what is
        made of it.

        Raises:
            StoreAwayError: not now.
        """

    async def refresh(self, session_id: str) -> bool:
        """Drop the copy that `load` gives if it is out of date, and whether it was: then it pays to load again.

        Only for one who has the session's turn, since nobody else may be reading the state of the copy.

        Raises:
            StoreAwayError: not now.
        """

    async def commit(self, session: Session, expected_revision: int | None) -> None:
        """Put `session` in the place of the one with `expected_revision`; None: it is new.

        Once this has begun it is carried through, even if the task that waits for it is cancelled meanwhile. When it
        raises, the session's state slot is still the caller's.

        Raises:
            ConflictError: the stored session is of another revision, or gone, or there already.
            StoreFullError: it is new, and there is no room.
            StoreAwayError: not now. The session is as it was, unless the answer of a store elsewhere was lost: then
                it is either as it was or as it was to be, and nothing in between.
        """

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False if it is not here. Raises `StoreAwayError`."""

    async def expire(self, now: float) -> int:
        """Forget all sessions whose time is over by `now` (seconds since 1970) and that are not in use; how many.

        A store may stop after some of them: call again until it returns 0.
        """

    def trim(self) -> None:
        """Give back the memory of sessions that are gone."""

    def __iter__(self) -> Iterator[Session]:
        """All sessions that are here."""

    def __len__(self) -> int:
        """How many sessions are here."""

    def tiers(self) -> dict[str, int]:
        """How many sessions are where: "memory" is this process, "store" what lies behind it; copies count twice."""

    def caches(self) -> tuple[int, int]:
        """How many sessions that adapt are in this process's memory, and how many bytes their caches have, those that
        several share counted for each."""

    def owned(self, owner: str) -> int:
        """How many of them are this owner's ("" is nobody, and not counted)."""
