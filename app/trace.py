"""What the network thought of the last words of a session, one by one, for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.engine import Job
from app.service import Service
from app.sessions import Session
from app.states import START
from model import decoding
from model.runtimes.base import Floats, StateTensor

#: So many predictions beside each word.
TOP = 10
#: A layer is drawn with so many values at most.
BINS = 64


class Layer(NamedTuple):
    """The hidden state of one layer. `values` are means of neighbours where there are more units than bins."""

    name: str
    layer: int
    size: int
    values: list[float]


@dataclass(frozen=True, slots=True)
class Moment:
    """Right after a word: `position` words were consumed, `id` was the last, `job` says what may come next."""

    position: int
    id: int
    job: Job
    layers: list[Layer]


async def trace(service: Service, session_id: str, last: int) -> tuple[Session, list[Moment]]:
    """The last words of a session, as many as it remembers; it is as it was afterwards.

    Raises as `app.branches.rewind`.
    """
    async with service.turn(session_id):
        session = await service.find(session_id)
        begin = max(session.position - last, session.earliest)
        slot, cache = await service.history.state_at(session, begin)
        tensors = hidden_tensors(service.scheduler.runtime.state_tensors)
        wanted = decoding.candidates(TOP, len(service.tokenizer), include_unknown=False)
        scheduler = service.scheduler
        moments = []
        try:
            for position, id in enumerate(session.words_between(begin, session.position), begin + 1):
                job = Job([id], slot, START, wanted, cache=cache)
                job.slot = scheduler.take_state()
                await scheduler.run(job)
                scheduler.free_state(slot)
                slot, cache = job.slot, job.cache
                state = scheduler.states.read([slot])
                layers = [
                    Layer(tensor.name, tensor.layer, tensor.size, binned(state[index][0]).tolist())
                    for index, tensor in tensors
                ]
                moments.append(Moment(position, id, job, layers))
        finally:
            scheduler.free_state(slot)
        return session, moments


def hidden_tensors(tensors: tuple[StateTensor, ...]) -> list[tuple[int, StateTensor]]:
    """The last tensor of each layer, which is what it passes on, and its place in the state.

    >>> c, h = StateTensor("c1", 2, 0), StateTensor("h1", 2, 0)
    >>> hidden_tensors((c, h)) == [(1, h)]
    True
    """
    of_layer = {tensor.layer: (index, tensor) for index, tensor in enumerate(tensors)}
    return [of_layer[layer] for layer in sorted(of_layer)]


def binned(values: Floats) -> Floats:
    """(N,) float32 to (min(N, BINS),): means of neighbours, the groups as equal as they can be.

    >>> binned(np.arange(128, dtype=np.float32))[:3].tolist()
    [0.5, 2.5, 4.5]
    """
    if len(values) <= BINS:
        return values
    starts = np.arange(BINS) * len(values) // BINS
    sizes = np.diff(starts, append=len(values))
    means: Floats = (np.add.reduceat(values, starts) / sizes).astype(np.float32)
    return means
