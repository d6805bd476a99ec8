"""Completions as they grow: the text, and the parallel lists of its tokens, in the shape that OpenAI's clients read.

A word is a token. Text that is generated goes on from the prompt, so that both make a text; a blank may come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.engine import Scores
from app.running_text import RunningText
from app.speech import Said
from model.tokenizer import Tokenizer


class Given(NamedTuple):
    """A prompt: its text, its words, and where in the text each of them starts.

    consumed: the words that are consumed; those of `ids`, or all but the first if that is where every text starts.
    """

    text: str
    ids: Sequence[int]
    starts: Sequence[int]
    consumed: Sequence[int]


def given_ids(tokenizer: Tokenizer, ids: Sequence[int], start: int | None) -> Given:
    """A prompt of ids; `start` is the word that every text starts after, None in the middle of one."""
    text = tokenizer.decode(ids)
    starts, at = [], 0
    for id in ids:
        word = "\n" if id == tokenizer.end_id else tokenizer.word_of(id)
        at = text.index(word, at)
        starts.append(at)
        at += len(word)
    return Given(text, ids, starts, ids[1:] if start is not None and ids[:1] == [start] else ids)


class Choice:
    """One completion as it grows: its text, and the parallel lists of its tokens."""

    def __init__(self, tokenizer: Tokenizer, index: int, given: Given, logprobs: int | None, *, echo: bool) -> None:
        self._tokenizer = tokenizer
        self._index = index
        self._given = given
        self._logprobs = logprobs
        self._echo = echo
        self._text: RunningText | None = None
        self._length = 0
        self._pieces: list[str] = []
        self._tokens = _Tokens()

    def begin(self, before: Sequence[int], scores: Scores | None) -> RunningText:
        """Once: the prompt itself, if it is to be given back.

        before: the words that the completion goes on from. scores: those of the prompt, if they were asked for.
        """
        if self._text is None:
            self._text = RunningText(self._tokenizer, before, blank=self._given.text[-1:].isspace())
            if self._echo:
                self._give_back(scores)
        return self._text

    def say(self, said: Said, before: Sequence[int], scores: Scores | None) -> None:
        """A word that was generated; the others as in `begin`."""
        piece = self.begin(before, scores).add(said.id)
        self._pieces.append(piece)
        value, tops = self._beside(said.id, said.log_probability, said.top_ids, said.top_log_probabilities)
        blank = len(piece) - len(piece.lstrip(" "))
        self._tokens.add(self._tokenizer.word_of(said.id), value, tops, self._length + blank)
        self._length += len(piece)

    def whole(
        self, said: Sequence[Said], before: Sequence[int], scores: Scores | None, finish_reason: str
    ) -> dict[str, Any]:
        """The choice, when all has been said; the others as in `begin`."""
        self.begin(before, scores)
        for word in said:
            self.say(word, before, scores)
        return self.take(finish_reason)

    def _give_back(self, scores: Scores | None) -> None:
        given = self._given
        self._pieces.append(given.text)
        self._length = len(given.text)
        known = len(given.ids) - len(given.consumed)
        for place, (id, start) in enumerate(zip(given.ids, given.starts, strict=True)):
            value, tops = None, None
            if scores is not None and place:  # the first word is taken as given
                ids, values = scores.tops[place - known] if scores.tops else _NOTHING
                value, tops = self._beside(id, scores.log_probabilities[place - known], ids.tolist(), values.tolist())
            self._tokens.add(self._tokenizer.word_of(id), value, tops, start)

    def take(self, finish_reason: str | None) -> dict[str, Any]:
        """What has come since the last time."""
        logprobs = None if self._logprobs is None else self._tokens.lists()
        text = "".join(self._pieces)
        self._pieces, self._tokens = [], _Tokens()
        return {"text": text, "index": self._index, "logprobs": logprobs, "finish_reason": finish_reason}

    def _beside(
        self, id: int, value: float, ids: Sequence[int], values: Sequence[float]
    ) -> tuple[float, Mapping[str, float]]:
        """The word's own log-probability and those of the likeliest, its own among them: one and the same float."""
        words = self._tokenizer.vocabulary
        tops = {words[other]: its for other, its in zip(ids, values, strict=True)}
        return tops.setdefault(words[id], value), tops


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.float32))


class _Tokens:
    def __init__(self) -> None:
        self._tokens: list[str] = []
        self._values: list[float | None] = []
        self._tops: list[Mapping[str, float] | None] = []
        self._offsets: list[int] = []

    def add(self, token: str, value: float | None, tops: Mapping[str, float] | None, offset: int) -> None:
        self._tokens.append(token)
        self._values.append(value)
        self._tops.append(tops)
        self._offsets.append(offset)

    def lists(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens,
            "token_logprobs": self._values,
            "top_logprobs": self._tops,
            "text_offset": self._offsets,
        }
