"""Where a session may go but forward: another one that begins inside it, and back."""

from __future__ import annotations

from dataclasses import replace

from app.scheduler import UnavailableError
from app.service import ATTEMPTS, Service
from app.sessions import Session
from app.states import START
from app.stores.base import ConflictError


async def fork(service: Service, session_id: str, position: int | None) -> Session:
    """A new session of the same owner that has consumed the same words up to `position`, by default all of them.

    The old one is as it was. Raises as `rewind`, and a `Problem` if the owner has too many sessions.
    """
    async with service.turn(session_id):
        session = await service.find(session_id)
        position = session.position if position is None else position
        slot, cache = await service.history.state_at(session, position)
        new = service.new_session(session.ttl)
        forked = session.back_at(position, slot, cache, new.created_at)
        forked = replace(forked, id=new.id, created_at=new.created_at)
        await service.commit(forked, None, slot)
        return forked


async def rewind(service: Service, session_id: str, position: int) -> Session:
    """The session, as if nothing after `position` had been consumed. Where it stands already nothing changes.

    Raises:
        PositionConflictError, NoSuchSessionError, SessionGoneError: see `app.sessions`.
        ConflictError, StoreAwayError, UnavailableError, RuntimeFailedError: not now.
    """
    async with service.turn(session_id):
        for _ in range(ATTEMPTS):
            session = await service.find(session_id)
            here = position == session.position
            slot, cache = (START, session.cache) if here else await service.history.state_at(session, position)
            rewound = session.back_at(position, session.state if here else slot, cache, service.clock())
            try:
                await service.commit(rewound, session.revision, slot)
            except ConflictError:
                # Another replica has moved it meanwhile.
                if not await service.store.refresh(session_id):
                    raise
            else:
                return rewound
        raise UnavailableError("other requests move this session on all the time")
