"""A session as bytes for this process only, all of it but the cache: made and read in about a microsecond."""

from __future__ import annotations

import struct
from array import array

from app.sessions import Session
from model.adaptation import Cache

#: State, revision, position, times; whether words are of four bytes; how long the id, the owner, the scores (one more,
#: 0: there are none), the words, the mark of what was generated and the family are; and how many marks there are.
_HEAD = struct.Struct("<3q3d?3HI3H")
_MARK = struct.Struct("<qI")
_LENGTH = struct.Struct("<I")  # clients may name a session anything

#: Where the name is in a packed session.
NAME_AT = _HEAD.size


def name_of(session_id: str) -> bytes:
    """The name of the packed session with this id, which no other begins with."""
    name = session_id.encode("utf-8", "surrogatepass")
    return _LENGTH.pack(len(name)) + name


def id_of(content: bytes) -> str:
    """The id of a packed session."""
    (length,) = _LENGTH.unpack_from(content, NAME_AT)
    begin = NAME_AT + _LENGTH.size
    return content[begin : begin + length].decode("utf-8", "surrogatepass")


def pack(session: Session) -> bytes:
    """All of a session but its cache."""
    name, owner, scores, marks = name_of(session.id), session.owner.encode(), session.scores, session.marks
    head = _HEAD.pack(
        session.state,
        session.revision,
        session.position,
        session.created_at,
        session.expires_at,
        session.ttl,
        session.typecode == "I",
        len(name),
        len(owner),
        0 if scores is None else 1 + len(scores[0]),
        len(session.recent),
        len(session.generated),
        len(session.family),
        len(marks),
    )
    parts = [head, name, owner, session.recent, session.generated, session.family]
    if scores is not None:
        parts += scores[0].tobytes(), scores[1].tobytes()
    for position, state in marks:
        parts += _MARK.pack(position, len(state)), state
    return b"".join(parts)


def unpack(session_id: str, content: bytes, cache: Cache | None) -> Session:
    """The session, whose id is this, with its `cache` if it adapts."""
    (
        state,
        revision,
        position,
        created_at,
        expires_at,
        ttl,
        wide,
        name,
        owner,
        scored,
        recent,
        generated,
        family,
        marked,
    ) = _HEAD.unpack_from(content)
    owner_at = NAME_AT + name
    recent_at = owner_at + owner
    generated_at = recent_at + recent
    family_at = generated_at + generated
    end = family_at + family
    scores: tuple[array[float], array[int]] | None = None
    if scored:
        ranks_at = end + 4 * (scored - 1)
        scores = array("f", content[end:ranks_at]), array("I", content[ranks_at : 2 * ranks_at - end])
        end = 2 * ranks_at - end
    marks: tuple[tuple[int, bytes], ...] = ()
    for _ in range(marked):
        at, length = _MARK.unpack_from(content, end)
        end += _MARK.size + length
        marks += ((at, content[end - length : end]),)
    return Session(
        session_id,
        state,
        position,
        revision,
        "I" if wide else "H",
        content[recent_at:generated_at],
        created_at,
        expires_at,
        ttl,
        scores,
        content[owner_at:recent_at].decode() if owner else "",
        content[generated_at:family_at],
        marks,
        content[family_at : family_at + family],
        cache,
    )
