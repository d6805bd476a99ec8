"""How likely texts are, word by word. No session is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from app import problems
from app.engine import Job, Scores
from app.problems import Problem
from app.service import Service, Words
from app.states import START
from model.tokenizer import Tokenizer

#: So many texts of one request are on their way at once: more would crowd out the requests of others.
TEXTS_AT_ONCE = 16

#: The most words of one request, over all its texts; English of the largest body that is accepted by default has fewer.
MAX_WORDS = 1 << 18

#: The most predictions that one request may ask for, over all its words.
MAX_PREDICTIONS = 200_000


class Scored(NamedTuple):
    """A text and its scores."""

    words: Words
    scores: Scores


async def score(service: Service, texts: Sequence[str], top_k: int) -> list[Scored]:
    """The scores of each text, read by itself from where a text begins.

    Raises:
        Problem: more words than a request may bring, or more predictions than it may ask for.
        Others as `Service.predict`.
    """
    found = await service.beside(sum(map(len, texts)), _words, service.tokenizer, texts)
    count = sum(len(words.ids) for words in found)
    if count > MAX_WORDS:
        raise problems.too_many_words(count, MAX_WORDS)
    if count * top_k > MAX_PREDICTIONS:
        raise Problem(
            413,
            "too-many-predictions",
            f"{count} words with {top_k} predictions each are more than {MAX_PREDICTIONS} predictions, the most for "
            "one request; lower `top_k`, or send the texts in several requests",
            fields={"words": count, "limit": MAX_PREDICTIONS},
        )
    jobs = [Job(words.ids, START, START, 0, score_from=0, score_tops=top_k) for words in found]
    waiting = iter([job for job in jobs if job.ids])

    async def work() -> None:
        for job in waiting:
            await service.run(job)
            service.scheduler.free_state(job.slot)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(TEXTS_AT_ONCE, len(jobs))):
                group.create_task(work())
    except* Exception as errors:
        raise errors.exceptions[0] from None
    return [Scored(words, job.scores) for words, job in zip(found, jobs, strict=True)]


def _words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Words]:
    encodings = map(tokenizer.encode, texts)
    return [Words(found.ids.tolist(), found.starts.tolist(), found.ends.tolist()) for found in encodings]
