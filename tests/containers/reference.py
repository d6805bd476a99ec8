"""What sessions with the model that ships must be answered, by the runtime of this checkout."""

from __future__ import annotations

import functools

import numpy as np

import model.runtimes
from app.settings import SHIPPED_MODEL
from model.artifact import Artifact
from model.runtimes.base import Runtime


@functools.cache
def _loaded() -> tuple[Artifact, Runtime]:
    artifact = Artifact.load(SHIPPED_MODEL)
    return artifact, model.runtimes.load(artifact, "cpu")


def vocabulary() -> list[str]:
    """All words that the model knows, by id."""
    tokenizer = _loaded()[0].tokenizer
    return [tokenizer.word_of(id) for id in range(len(tokenizer))]


class Sequence:
    """One sequence, one word after the other, alone."""

    #: A runtime in a batch, with other threads, may differ by so much.
    tolerance = 2e-3

    def __init__(self) -> None:
        self._artifact, self._runtime = _loaded()
        self._state = self._runtime.zero_state(1)
        if self._artifact.start is not None:
            self.consume(self._artifact.start)

    def consume(self, *words: str) -> None:
        for word in words:
            self._state = self._runtime.advance(self._id(word), self._state)

    def probability(self, word: str) -> float:
        """That this word comes next."""
        told = self._runtime.project(self._state[-1], top_k=1, targets=self._id(word))
        return float(np.exp(told.target_log_probabilities[0]))

    def _id(self, word: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        id = self._artifact.tokenizer.id_of(word)
        assert id is not None
        return np.array([id], dtype=np.int64)
