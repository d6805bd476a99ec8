"""Sessions that leave as a file, and live on where that is brought."""

from __future__ import annotations

from array import array
from dataclasses import replace

from app import state_file
from app.service import Service
from app.sessions import Session
from app.state_file import CacheFile, StateFile, StateFileError
from app.stores.base import ForeignSessionError
from model.adaptation import MOST_PAIRS, Cache, packed_bytes


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
    cache = None if file.cache is None else _cache(service, file, file.cache)
    new = service.new_session(file.ttl)
    session = replace(
        new,
        position=file.position,
        recent=array(new.typecode, file.words).tobytes(),
        created_at=min(file.created_at, new.created_at),
        generated=file.generated,
        marks=file.marks,
        cache=cache,
    ).remembering(service.settings.max_session_words)
    if file.position:
        session.state = service.scheduler.take_state()
        states.unpack(session.state, file.state)
    await service.commit(session, None, session.state)
    return session


def largest(service: Service) -> int:
    """The most bytes that a file from this server can have, whatever it was set to keep of those that adapt before."""
    states, settings = service.scheduler.states, service.settings
    cache_bytes = packed_bytes(MOST_PAIRS, states.width)
    return state_file.largest(settings.max_session_words, states.bytes_each, cache_bytes)


def _cache(service: Service, file: StateFile, carried: CacheFile) -> Cache:
    """The cache that a file carries, with as many pairs as are kept here. Raises StateFileError when it cannot be this
    session's."""
    vocabulary = len(service.tokenizer)
    try:
        cache = Cache.unpack(
            carried.adaptation,
            carried.content,
            count=carried.pairs,
            width=service.scheduler.states.width,
            position=file.position,
            most=service.adaptation.size,
        )
    except ValueError as error:
        raise StateFileError(f"the cache in the state file is wrong: {error}") from None
    words = cache.words[cache.numbers]
    if words.max(initial=0) >= vocabulary:
        raise StateFileError(f"the state file's cache names the word {words.max()}, and the model has {vocabulary}")
    known = min(len(words), len(file.words))
    if words[len(words) - known :].tolist() != file.words[len(file.words) - known :].tolist():
        raise StateFileError("the state file contradicts itself: its cache has other words than the session")
    return cache
