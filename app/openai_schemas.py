"""The shape of OpenAI's completions, and of a tokenizer: what goes in and what comes out.

A word is a token.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict, JsonValue

from app.openapi import WORD_ID
from app.schemas import EXACT, MAX_GENERATED, MAX_TEMPERATURE

MAX_PROMPTS = 128
MAX_CHOICES = 16
MAX_LOGPROBS = 20
MAX_STOPS = 16
#: The most words that an answer may come to, prompts that are given back included; with predictions beside them, each
#: prediction counts.
MAX_ANSWER = 200_000

Id = Annotated[int, Field(ge=0, le=2**53, json_schema_extra={WORD_ID: True})]
Ids = Annotated[list[Id], Field(fail_fast=True)]
Prompt = str | Annotated[Ids, Field(min_length=1)]
Prompts = Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
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
        description='Texts that end a completion and are no part of it, by their words; "\\n" is the end of a line, '
        "and so are several, with some models. One without a word is refused.",
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

    tokens: Ids
    model: str | None = Field(default=None, max_length=256, description="Not looked at.")


class DetokenizeReply(BaseModel):
    """The text."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
