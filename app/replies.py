"""From an answer to bytes: plain dicts in the shape of `app.schemas`, written by pydantic-core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pydantic_core

from app.engine import Job
from app.service import Answer, Service
from app.sessions import Session
from app.trace import TOP, Moment
from model import decoding

#: How many of its last words a session shows.
SHOWN_WORDS = 256


@lru_cache(maxsize=1024)
def _iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as an RFC 3339 time in UTC, whole seconds, rounded down.

    >>> timestamp(0.9)
    '1970-01-01T00:00:00Z'
    """
    return _iso(int(seconds))


def prediction(service: Service, answer: Answer, *, top_k: int, prefix: str, include_unknown: bool) -> bytes:
    """The body of a reply to a predict request."""
    job, session, vocabulary = answer.job, answer.session, service.tokenizer.vocabulary
    unknown = service.tokenizer.unknown_id
    best = decoding.ranking(
        job.top_ids, job.top_log_probabilities, top_k, without=None if include_unknown or prefix else unknown
    )
    reply: dict[str, Any] = {
        "session_id": None if session is None else session.id,
        "position": answer.position,
        "model": service.artifact.id,
        "expires_at": None if session is None else timestamp(session.expires_at),
        "words": _words(answer, vocabulary, unknown),
        "predictions": [
            {"word": vocabulary[id], "probability": probability, "log_probability": log_probability}
            for id, probability, log_probability in best
        ],
        "prefix_probability": decoding.probability(job.prefix_log_probability) if prefix else 1.0,
        "unknown_probability": decoding.probability(job.unknown_log_probability),
    }
    if job.score_from is not None:
        reply["entropy_bits"] = decoding.bits(job.entropy)
    return pydantic_core.to_json(reply)


def _words(answer: Answer, vocabulary: Sequence[str], unknown: int) -> list[dict[str, Any]]:
    ids, starts, ends = answer.words
    if starts is None or ends is None:
        items: list[dict[str, Any]] = [{"word": vocabulary[id], "known": id != unknown} for id in ids]
    else:
        items = [
            {"word": vocabulary[id], "start": start, "end": end, "known": id != unknown}
            for id, start, end in zip(ids, starts, ends, strict=True)
        ]
    if answer.scores is not None:
        for item, value, rank in zip(items, answer.scores.log_probabilities, answer.scores.ranks, strict=True):
            item |= score(value, rank)
    return items


def score(log_probability: float, rank: int) -> dict[str, Any]:
    """How likely a word was, as every reply says it."""
    return {
        "log_probability": log_probability,
        "probability": decoding.probability(log_probability),
        "rank": rank,
        "surprisal_bits": decoding.surprisal_bits(log_probability),
    }


def trace(service: Service, session: Session, moments: Sequence[Moment]) -> bytes:
    """The body of a reply that is the trace of a session."""
    vocabulary, unknown = service.tokenizer.vocabulary, service.tokenizer.unknown_id

    def predictions(job: Job) -> list[dict[str, Any]]:
        best = decoding.ranking(job.top_ids, job.top_log_probabilities, TOP, without=unknown)
        return [
            {"word": vocabulary[id], "probability": probability, "log_probability": log_probability}
            for id, probability, log_probability in best
        ]

    return pydantic_core.to_json(
        {
            "session_id": session.id,
            "position": session.position,
            "model": service.artifact.id,
            "words": [
                {
                    "word": vocabulary[moment.id],
                    "known": moment.id != unknown,
                    "position": moment.position,
                    "predictions": predictions(moment.job),
                    "layers": [layer._asdict() for layer in moment.layers],
                }
                for moment in moments
            ],
        }
    )


def session(service: Service, session: Session) -> bytes:
    """The body of a reply that is a session."""
    vocabulary, cache = service.tokenizer.vocabulary, session.cache
    return pydantic_core.to_json(
        {
            "session_id": session.id,
            "position": session.position,
            "model": service.artifact.id,
            "created_at": timestamp(session.created_at),
            "expires_at": timestamp(session.expires_at),
            "state_bytes": service.scheduler.states.bytes_each + (0 if cache is None else cache.nbytes),
            "words": [vocabulary[id] for id in session.last_words(SHOWN_WORDS)],
            "adapt": None if cache is None else asdict(cache.adaptation),
        }
    )
