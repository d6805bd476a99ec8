"""Sessions that leave as a file, and live on where that is brought."""

from __future__ import annotations

from array import array
from dataclasses import replace

from app import state_file
from app.service import Service
from app.sessions import Session
from app.state_file import StateFile, StateFileError
from app.stores.base import ForeignSessionError


async def carry_out(service: Service, session_id: str) -> bytes:
    """The file of a session, which stays as it is. Raises as `Service.find`."""
    async with service.turn(session_id):
        session = await service.find(session_id)
        state = service.scheduler.states.pack(session.state)
        return state_file.encode(StateFile.of(session, service.artifact.id, state))


async def carry_in(service: Service, content: bytes) -> Session:
    """A new session of the caller that goes on where the one in the file stood. Nothing changes when it cannot.

    Raises:
        StateFileError: the file is no good.
        ForeignSessionError: it is of another model.
        Problem: the caller has too many sessions.
        UnavailableError, StoreFullError, StoreAwayError: not now.
    """
    file = state_file.decode(content)
    model, states = service.artifact.id, service.scheduler.states
    if file.model != model:
        raise ForeignSessionError(f"the state is of the model {file.model}, and this server has {model}")
    vocabulary = len(service.tokenizer)
    if file.words and max(file.words) >= vocabulary:
        raise StateFileError(f"the state file names the word {max(file.words)}, and the model has {vocabulary} words")
    if len(file.state) != states.bytes_each:
        raise StateFileError(f"the state file has states of {len(file.state)} bytes, and the model {states.bytes_each}")
    new = service.new_session(file.ttl)
    session = replace(
        new,
        position=file.position,
        recent=array(new.typecode, file.words).tobytes(),
        created_at=min(file.created_at, new.created_at),
        generated=file.generated,
        marks=file.marks,
    ).remembering(service.settings.max_session_words)
    if file.position:
        session.state = service.scheduler.take_state()
        states.unpack(session.state, file.state)
    await service.commit(session, None, session.state)
    return session


def largest(service: Service) -> int:
    """The most bytes that a file from this server can have."""
    return state_file.largest(service.settings.max_session_words, service.scheduler.states.bytes_each)
