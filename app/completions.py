"""The shape of OpenAI's completions: what goes in, what comes out, and what they are here.

A word is a token. Text that is generated goes on from the prompt, so that both make a text; a blank may come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict, JsonValue

from app.engine import Scores
from app.openapi import WORD_ID
from app.running_text import RunningText
from app.schemas import EXACT, MAX_GENERATED, MAX_TEMPERATURE
from app.speech import Said
from model.tokenizer import Tokenizer

MAX_PROMPTS = 128
MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_STOPS = 16

Id = Annotated[int, Field(ge=0, le=2**53, json_schema_extra={WORD_ID: True})]
Prompt = str | Annotated[list[Id], Field(min_length=1)]
Prompts = Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


#: `best_of` is `n`, or left out.
_BEST_OF_ALL: list[JsonValue] = [
    {"properties": {"best_of": {"const": n}, "n": {"const": n}}, "required": ["n"]} for n in range(2, MAX_CHOICES + 1)
]

#: What `CompletionRequest._possible` asks for, in the words of JSON Schema.
_POSSIBLE: JsonDict = {
    "allOf": [
        {
            "anyOf": [
                {"properties": {"best_of": {"type": "null"}}},
                {"properties": {"best_of": {"const": 1}, "n": {"enum": [1, None]}}},
                *_BEST_OF_ALL,
            ]
        },
        {
            "anyOf": [
                {"properties": {"session_id": {"type": "null"}}},
                {
                    "properties": {
                        "n": {"enum": [1, None]},
                        "prompt": {
                            "anyOf": [
                                {"type": "string"},
                                {"type": "array", "maxItems": 1},
                                {"type": "array", "items": {"type": "integer"}},
                            ]
                        },
                    }
                },
            ]
        },
        {
            "anyOf": [
                {"properties": {"position": {"type": "null"}}},
                {"properties": {"session_id": {"type": "string"}}, "required": ["session_id"]},
            ]
        },
    ]
}


class CompletionRequest(BaseModel):
    """What OpenAI's clients send; `session_id` and `position` are this service's own."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_POSSIBLE)

    model: str = Field(default="", max_length=256, description="One that /v1/models names, or left out.")
    prompt: Prompts = Field(
        default="",
        description="A text, or ids of words, or several of either. Ids may begin with that of the word every text "
        "starts after (see /tokenizer_info), which is not consumed a second time.",
    )
    max_tokens: int | None = Field(default=16, ge=0, le=MAX_GENERATED, description="Words to generate, at most.")
    temperature: float | None = Field(default=1.0, ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    n: int | None = Field(default=1, ge=1, le=MAX_CHOICES, description="Completions of each prompt.")
    logprobs: int | None = Field(
        default=None, ge=0, le=MAX_LOGPROBS, description="How many likeliest words to name beside each."
    )
    echo: bool | None = Field(default=False, description="Give the prompt back, too.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = Field(
        default=None,
        description='Texts that end a completion and are no part of it, by their words; "\\n" is the end of a line.',
    )
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, json_schema_extra=EXACT)
    stream: bool | None = False
    stream_options: dict[Literal["include_usage"], bool] | None = None
    user: str | None = Field(default=None, max_length=1000, description="Not looked at.")
    suffix: Literal[""] | None = Field(default=None, description="Text after the completion: cannot be had here.")
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="The same as `n`, or left out.")
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(default=None, description="0, or left out.")
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(default=None, description="0, or left out.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        default=None, description="Empty, or left out."
    )
    session_id: str | None = Field(default=None, min_length=1, max_length=128, description="Continue this session.")
    position: int | None = Field(default=None, ge=0, le=2**53)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [item for item in self.prompt if isinstance(item, int)]
        return [ids] if ids else [item for item in self.prompt if not isinstance(item, int)]

    @model_validator(mode="after")
    def _possible(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("`best_of` other than `n` cannot be had here")
        if self.session_id is not None and (len(self.prompts) > 1 or (self.n or 1) > 1):
            raise ValueError("a session goes on in one way: give one prompt, and `n` 1, with `session_id`")
        if self.position is not None and self.session_id is None:
            raise ValueError("`position` is that of a session: give `session_id`, too")
        return self


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


class Logprobs(BaseModel):
    """Parallel lists, an item a word. `text_offset` counts characters of the choice's text, the prompt's included if it
    is there."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion."""

    model_config = ConfigDict(extra="forbid")

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(BaseModel):
    """Words that went in and came out."""

    model_config = ConfigDict(extra="forbid")

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ListedModel(BaseModel):
    """A name that the model answers to."""

    model_config = ConfigDict(extra="forbid")

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsReply(BaseModel):
    """What there is to choose from."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["list"]
    data: list[ListedModel]


class CompletionReply(BaseModel):
    """Completions. `session_id` and `position` are there with a session."""

    model_config = ConfigDict(extra="forbid")

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    session_id: str = ""
    position: int = 0


class TokenizerReply(BaseModel):
    """The tokenizer. `bos_token` is the text of the word that every text starts after, which is consumed already where
    a text begins; `eos_token` that of the end of a line."""

    model_config = ConfigDict(extra="forbid")

    tokenizer_class: str
    vocab_size: int
    bos_token: str | None
    eos_token: str | None
    unk_token: str
    add_bos_token: bool


class TokenizeRequest(BaseModel):
    """A text to be split into words."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    model: str | None = Field(default=None, max_length=256, description="Not looked at.")
    add_special_tokens: bool = Field(default=True, description="Whether the word every text starts after comes first.")
    return_token_strs: bool | None = Field(default=False, description="Whether to name the words, too.")


class TokenizeReply(BaseModel):
    """Ids of words; `token_strs` are there if asked for."""

    model_config = ConfigDict(extra="forbid")

    count: int
    tokens: list[int]
    token_strs: list[str] = []


class DetokenizeRequest(BaseModel):
    """Ids of words to be made a text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: list[Id]
    model: str | None = Field(default=None, max_length=256, description="Not looked at.")


class DetokenizeReply(BaseModel):
    """The text."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
