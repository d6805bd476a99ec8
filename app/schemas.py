"""What goes in and out over HTTP. Requests are validated by these classes; replies are built as plain dicts of the
same shape (`app.replies`), because making and dumping models would cost more than the rest of a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_TOP_K = 1000

Word = Annotated[str, Field(min_length=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | None = Field(default=None, description="Tokenised as the model's training text was, then consumed.")
    words: list[Word] | None = Field(
        default=None, description="Consumed as they are, one vocabulary word each; not together with `text`."
    )

    @model_validator(mode="after")
    def _text_or_words(self) -> _Request:
        if self.text is not None and self.words is not None:
            raise ValueError("`text` and `words` cannot be given together")
        return self


class PredictRequest(_Request):
    """Consume words, then say what may come next."""

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


class OpenRequest(_Request):
    """Open a session, and consume words if there are any."""

    ttl_seconds: float | None = Field(
        default=None,
        ge=1,
        allow_inf_nan=False,
        description="Forgotten when not used for so long; by default as configured.",
    )


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


class SessionReply(BaseModel):
    """A session; `words` are its last 256."""

    model_config = ConfigDict(extra="forbid")

    session_id: str
    position: int
    model: str
    created_at: str
    expires_at: str
    state_bytes: int
    words: list[str]


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
