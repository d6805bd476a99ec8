"""What goes in and out over HTTP. Requests are validated by these classes; replies are built as plain dicts of the
same shape (`app.replies`), because making and dumping models would cost more than the rest of a request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from model.adaptation import MOST_PAIRS, MOST_THETA

MAX_TOP_K = 1000
MAX_GENERATED = 1000
MAX_TEMPERATURE = 100.0
MAX_STOPS = 64
MAX_TEXTS = 1000
MAX_TRACED = 64

#: Numbers in a JSON document may become floats, in which larger integers are not exact.
EXACT: JsonDict = {"minimum": -(2**53), "maximum": 2**53}

Word = Annotated[str, Field(min_length=1)]

#: Of a long list only the first item that is wrong is named: to list half a million of them took seconds and 400 MB.
Words = Annotated[list[Word], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]


def _never(*together: JsonDict) -> JsonDict:
    """What the validators below refuse, for the JSON Schema: fields that have these values at the same time."""
    return {"allOf": [{"not": {"required": list(fields), "properties": fields}} for fields in together]}


_TEXT_AND_WORDS: JsonDict = {"text": {"type": "string"}, "words": {"type": "array"}}


class WordsRequest(BaseModel):
    """Words, as text or one by one."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_never(_TEXT_AND_WORDS))

    text: str | None = Field(default=None, description="Tokenised as the model's training text was, then consumed.")
    words: Words | None = Field(
        default=None, description="Consumed as they are, one vocabulary word each; not together with `text`."
    )

    @model_validator(mode="after")
    def _text_or_words(self) -> WordsRequest:
        if self.text is not None and self.words is not None:
            raise ValueError("`text` and `words` cannot be given together")
        return self


class PredictRequest(WordsRequest):
    """Consume words, then say what may come next."""

    model_config = ConfigDict(
        json_schema_extra=_never(_TEXT_AND_WORDS, {"keep": {"const": False}, "session_id": {"type": "string"}})
    )

    session_id: str | None = Field(default=None, min_length=1, max_length=128, description="Continue this session.")
    position: int | None = Field(
        default=None,
        ge=0,
        le=2**53,
        description="How many words the session is believed to have consumed: makes retries safe.",
    )
    keep: bool = Field(default=True, description="false, without `session_id`: answer once and keep nothing.")
    top_k: int = Field(default=10, ge=0, le=MAX_TOP_K, description="How many predictions.")
    prefix: str = Field(default="", max_length=256, description="Only words that start so: the word being typed.")
    include_unknown: bool = Field(default=False, description="Whether <unk> may stand among the predictions.")
    scores: bool = Field(default=False, description="Also score each consumed word.")

    @model_validator(mode="after")
    def _keep_or_session(self) -> PredictRequest:
        if not self.keep and self.session_id is not None:
            raise ValueError("`keep` cannot be false together with `session_id`")
        return self


class AdaptRequest(BaseModel):
    """How a session adapts; what is left out is as configured. See `model.adaptation`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: int | None = Field(
        default=None, ge=1, le=MOST_PAIRS, description="Of so many of its last words; at most as configured."
    )
    theta: float | None = Field(
        default=None,
        gt=0,
        le=MOST_THETA,
        allow_inf_nan=False,
        description="How much more a word counts that stood where the network thought as it does now. Hidden outputs "
        "are rounded for it, which shows where it is large.",
    )
    weight: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="The share of those words in the probabilities, lambda; 0: it does not adapt.",
    )


class OpenRequest(WordsRequest):
    """Open a session, and consume words if there are any."""

    ttl_seconds: float | None = Field(
        default=None,
        ge=1,
        allow_inf_nan=False,
        description="Forgotten when not used for so long; by default as configured.",
    )
    adapt: bool | AdaptRequest | None = Field(
        default=None, description="Whether, or how, words become likelier that the session has used; or as configured."
    )

    @field_validator("adapt", mode="before")
    @classmethod
    def _whether_or_how(cls, adapt: object) -> object:
        """An object is told apart here: tried as each of the types, it has errors in places that are not there."""
        if isinstance(adapt, dict):
            return AdaptRequest.model_validate(adapt)
        if adapt is not None and not isinstance(adapt, bool | AdaptRequest):
            raise ValueError("Input should be true, false or an object")
        return adapt


class GenerateRequest(WordsRequest):
    """Consume words, then go on: each word that is generated is consumed, too."""

    session_id: str | None = Field(default=None, min_length=1, max_length=128, description="Continue this session.")
    position: int | None = Field(
        default=None,
        ge=0,
        le=2**53,
        description="How many words the session is believed to have consumed: makes retries safe. The session's last "
        "request once more, word for word, is answered with the same words; what a broken stream lacked is added. "
        "If it opened the session, it is repeated with the id and position 0.",
    )
    max_words: int = Field(default=20, ge=0, le=MAX_GENERATED, description="How many words to generate, at most.")
    temperature: float = Field(
        default=1.0,
        ge=0,
        le=MAX_TEMPERATURE,
        allow_inf_nan=False,
        description="Below 1 likely words become likelier, above 1 less so; 0 always takes the likeliest.",
    )
    top_k: int | None = Field(default=None, ge=1, le=2**53, description="Only the so many likeliest words.")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Only the likeliest words that together are so probable."
    )
    seed: int | None = Field(
        default=None,
        ge=-(2**63),
        lt=2**63,
        description="The same one gives the same words.",
        json_schema_extra=EXACT,
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=1000)]] | None = Field(
        default=None,
        max_length=MAX_STOPS,
        description="Words, or texts by their words, to stop before: they are neither in the reply nor consumed. "
        '<eos>, or "\\n", is the end of a line, a word like others. One without a word is refused.',
    )
    stream: bool = Field(default=False, description="One server-sent event a word, and `done` at last.")


class ScoreRequest(BaseModel):
    """Say how likely texts are, word by word. Each is scored by itself; no session is touched."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}}},
                {"required": ["texts"], "properties": {"texts": {"type": "array"}}},
            ]
        },
    )

    text: str | None = Field(default=None, description="One text.")
    texts: Texts | None = Field(
        default=None, min_length=1, max_length=MAX_TEXTS, description="Several; not together with `text`."
    )
    top_k: int = Field(
        default=0, ge=0, le=MAX_TOP_K, description="How many predictions to name beside each word, <unk> among them."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> ScoreRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give one of `text` and `texts`")
        return self


class ForkRequest(BaseModel):
    """Open a session that begins inside another."""

    model_config = ConfigDict(extra="forbid", strict=True)

    position: int | None = Field(
        default=None, ge=0, le=2**53, description="After how many of its words; by default all of them."
    )


class RewindRequest(BaseModel):
    """Go back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    position: int = Field(ge=0, le=2**53, description="How many words stay consumed.")


class TraceQuery(BaseModel):
    """What of a session is to be drawn."""

    model_config = ConfigDict(extra="forbid")

    last: int = Field(default=20, ge=1, le=MAX_TRACED, description="How many of the last words.")


class ConsumedWord(BaseModel):
    """A word of the request. `start` and `end` are there for `text`, the last four fields with `scores`."""

    model_config = ConfigDict(extra="forbid")

    word: str
    start: int = Field(default=0, description="Where it starts in `text`, in characters.")
    end: int = 0
    known: bool = Field(description="false: it is not in the vocabulary and was consumed as <unk>.")
    log_probability: float = 0.0
    probability: float = 0.0
    rank: int = Field(default=1, description="1: no word was likelier.")
    surprisal_bits: float = 0.0


class Prediction(BaseModel):
    """A word that may come next. With `prefix`, the probability is that among the words that start so."""

    model_config = ConfigDict(extra="forbid")

    word: str
    probability: float
    log_probability: float


class PredictReply(BaseModel):
    """What may come next. `entropy_bits` is there with `scores`."""

    model_config = ConfigDict(extra="forbid")

    session_id: str | None
    position: int
    model: str
    expires_at: str | None
    words: list[ConsumedWord]
    predictions: list[Prediction]
    prefix_probability: float
    unknown_probability: float
    entropy_bits: float = 0.0


class GenerateReply(BaseModel):
    """What was generated. `position` is that of the session after it."""

    model_config = ConfigDict(extra="forbid")

    session_id: str
    position: int
    text: str = Field(description="The words as text that goes on from what was there: a blank may come first.")
    words: list[str]
    finish_reason: Literal["stop", "length"]


class ScoredWord(BaseModel):
    """A word of a text, and how likely it was there. `predictions` are there with `top_k`."""

    model_config = ConfigDict(extra="forbid")

    word: str
    start: int
    end: int
    known: bool
    log_probability: float
    probability: float
    rank: int
    surprisal_bits: float
    predictions: list[Prediction] = []


class TextScore(BaseModel):
    """A text; `perplexity` is null if there is no word in it, or if it is beyond all bounds."""

    model_config = ConfigDict(extra="forbid")

    words: list[ScoredWord]
    total_log_probability: float
    perplexity: float | None


class ScoreReply(BaseModel):
    """A result for each text."""

    model_config = ConfigDict(extra="forbid")

    model: str
    results: list[TextScore]


class AdaptReply(BaseModel):
    """How a session adapts."""

    model_config = ConfigDict(extra="forbid")

    size: int
    theta: float
    weight: float


class SessionReply(BaseModel):
    """A session; `words` are its last 256."""

    model_config = ConfigDict(extra="forbid")

    session_id: str
    position: int
    model: str
    created_at: str
    expires_at: str
    state_bytes: int = Field(description="What it keeps in memory beside its words.")
    words: list[str]
    adapt: AdaptReply | None = Field(description="How it adapts; null if it does not.")


class TracedLayer(BaseModel):
    """The hidden state of a layer: `values` are means of neighbours where it has more than 64 units."""

    model_config = ConfigDict(extra="forbid")

    name: str
    layer: int
    size: int = Field(description="How many units it has.")
    values: list[float] = Field(max_length=64)


class TracedWord(BaseModel):
    """A word, and what the network had in mind right after it."""

    model_config = ConfigDict(extra="forbid")

    word: str
    known: bool
    position: int = Field(description="How many words were consumed then, this one included.")
    predictions: list[Prediction]
    layers: list[TracedLayer]


class TraceReply(BaseModel):
    """The last words of a session, oldest first."""

    model_config = ConfigDict(extra="forbid")

    session_id: str
    position: int
    model: str
    words: list[TracedWord]


class ModelReply(BaseModel):
    """The model that is served."""

    model_config = ConfigDict(extra="forbid")

    name: str
    id: str
    network: str
    vocabulary: int
    parameters: int
    device: str
    runtime: str
    state_bytes: int
    perplexity: float | None


class ProblemReply(BaseModel):
    """An error, RFC 9457; some have more fields."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
