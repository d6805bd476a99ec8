"""Every setting of the service. Each is a field here, an option of `nextword serve`, and a NEXTWORD_* variable."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Literal

import pydantic_settings
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

import model
from app.sessions import WORDS_KEPT
from model.adaptation import MOST_PAIRS, MOST_THETA, Adaptation
from model.runtimes import RUNTIMES

ENV_PREFIX = "NEXTWORD_"
#: Where containers find secrets, a file each: nextword_session_key, nextword_store_password, and so on.
SECRETS_DIRECTORY = Path("/run/secrets")
#: Never shown, not even when they are wrong.
SECRETS = {"session_key", "api_keys", "store", "store_password"}
SHIPPED_MODEL = Path(model.__file__).parent / "pretrained" / "english"

#: What Kubernetes and Docker set in containers beside a service that is called nextword.
_LINK = re.compile(r"(SERVICE|PORT|ENV|NAME)(_|$)")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]
MetricsAccess = Literal["open", "keyed", "off"]


class Settings(BaseSettings):
    """Flags come before environment variables, those before files of secrets, those before the defaults."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    model: Path = Field(default=SHIPPED_MODEL, description="Model directory; by default the English model that ships.")
    runtime: str = Field(
        default="auto",
        description=f"What computes: {', '.join(RUNTIMES)}; auto is the fastest that this machine can run.",
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads the runtime computes with; by default the runtime decides."
    )
    store: str = Field(
        default="memory",
        description="Where sessions live: memory, sqlite:PATH, or redis://... (rediss://... for TLS) for replicas.",
    )
    store_password: SecretStr | None = Field(
        default=None, min_length=1, description="Password of the redis store, where --store does not hold it."
    )
    snapshot: Path | None = Field(
        default=None,
        description="File that sessions in memory are written to at a graceful stop and read from at the next start, "
        "once: after a crash they are gone.",
    )
    max_sessions: int = Field(
        default=100_000,
        ge=1,
        le=50_000_000,
        description="Live sessions at most; past it the one left alone for longest is evicted. Not with redis: there "
        "its maxmemory decides.",
    )
    session_ttl_seconds: float = Field(
        default=1800, ge=1, le=31_536_000, description="A session is forgotten when it has not been used for so long."
    )
    max_session_ttl_seconds: float = Field(
        default=86_400, ge=1, le=31_536_000, description="The longest such time that a client may ask for."
    )
    max_session_words: int = Field(
        default=WORDS_KEPT,
        ge=16,
        le=10_000_000,
        description="Words of a session that are remembered, at most. So far back it can be rewound and forked; half "
        "as far at least, where a request brings fewer words than that.",
    )
    adapt: bool = Field(
        default=False,
        description="Whether sessions adapt, where their client does not say: words that one has used become likelier "
        "in it.",
    )
    adapt_size: int | None = Field(
        default=None,
        ge=1,
        le=MOST_PAIRS,
        description="To so many of its last words a session adapts, at most; by default as is best for the model.",
    )
    adapt_theta: float | None = Field(
        default=None,
        gt=0,
        le=MOST_THETA,
        allow_inf_nan=False,
        description="How much more those count that came where the network stood as it does now; by default as is best "
        "for the model.",
    )
    adapt_weight: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="The share of those words in the probabilities (lambda); by default as is best for the model.",
    )
    max_adapting_sessions: int = Field(
        default=1_000,
        ge=1,
        le=50_000_000,
        description="Sessions in memory that adapt, at most: each takes up to 0.2 MB with the model that ships. Past "
        "it the one left alone for longest is evicted; with sqlite or redis it stays in the store, and there are more "
        "while requests work on all of them, --max-queue at most.",
    )
    history_bytes: int = Field(
        default=64 << 20,
        ge=0,
        le=1 << 40,
        description="Memory for states that sessions were at before; what is not there is computed again.",
    )
    session_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        validate_default=True,
        description="Secret that session ids are signed with; by default a random one, kept with the sessions. "
        "Replicas that share a store need one to share.",
    )
    max_batch: int = Field(
        default=128, ge=1, le=65_536, description="Sequences that advance together in one step, at most."
    )
    max_queue: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Requests being served at once, at most; past it they are answered 503.",
    )
    max_body_bytes: int = Field(
        default=1 << 20, ge=1024, le=1 << 30, description="The largest request body that is read."
    )
    max_words: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Words that one request may bring, at most."
    )
    retry_after_seconds: int = Field(default=1, ge=0, le=3600, description="What a 503 tells clients to wait.")
    drain_seconds: float = Field(
        default=30,
        ge=0,
        le=3600,
        description="How long requests in hand may take to finish when the service is stopped.",
    )
    log_level: LogLevel = Field(default="info", description="The least severe message that is logged.")
    log_format: LogFormat = Field(default="text", description="How a line of the log is written: json or text.")
    access_log: bool = Field(default=True, description="Log a line for every request.")
    api_keys: SecretStr | None = Field(
        default=None,
        description="Keys that clients must show, each as NAME:KEY or KEY, with spaces or commas in between.",
    )
    api_keys_file: Path | None = Field(
        default=None, description="A file of such keys, one a line; read again on SIGHUP."
    )
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Requests a second that one key may make in the long run; past it they are answered 429.",
    )
    rate_burst: int = Field(
        default=100, ge=1, le=1_000_000, description="Requests that one key may make at once before that counts."
    )
    max_requests_per_key: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Requests of one key being served at once, at most."
    )
    max_sessions_per_key: int | None = Field(
        default=None, ge=1, le=50_000_000, description="Live sessions of one key, at most."
    )
    metrics: MetricsAccess = Field(
        default="open", description="Who may read /metrics: open to all, keyed like /v1, or off."
    )
    cors_origins: str = Field(
        default="",
        description="Origins whose pages, or extensions, may call the service, with commas in between; * for all.",
    )

    def adaptation(self, best: Adaptation) -> Adaptation:
        """How sessions adapt whose client does not say how; `best` is what is best for the model."""
        return Adaptation(
            self.adapt_size or best.size, self.adapt_theta or best.theta, self.adapt_weight or best.weight
        )

    @field_validator("store")
    @classmethod
    def _known_store(cls, name: str) -> str:
        kind, _, place = name.partition(":")
        if name != "memory" and not (kind == "sqlite" and place) and not name.startswith(("redis://", "rediss://")):
            raise ValueError("choose memory, sqlite:PATH, redis://HOST:PORT or rediss://HOST:PORT")
        return name

    @field_validator("snapshot")
    @classmethod
    def _needed_snapshot(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("store", "memory") != "memory":
            raise ValueError("only sessions in memory need one; leave it out, or choose the store memory")
        return path

    @field_validator("session_key")
    @classmethod
    def _shared_key(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if key is None and info.data.get("store", "memory").startswith("redis"):
            raise ValueError("with a redis store every replica needs the same one; set at least 16 characters")
        return key

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, name: str) -> str:
        if name not in RUNTIMES:
            raise ValueError(f"choose one of {', '.join(RUNTIMES)}")
        return name

    @field_validator("metrics", "max_sessions_per_key")
    @classmethod
    def _of_keys(cls, value: str | int | None, info: ValidationInfo) -> str | int | None:
        keyed = info.data.get("api_keys") is not None or info.data.get("api_keys_file") is not None
        if value not in (None, "open", "off") and not keyed:
            raise ValueError("there are no keys, so it would do nothing; set api_keys_file, too")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, listed: str) -> str:
        for origin in filter(None, map(str.strip, listed.split(","))):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: write https://HOST or https://HOST:PORT, and nothing behind it"
                )
        return listed


class SettingsError(ValueError):
    """A setting is wrong; the message names it, one line each."""


def load(**given: object) -> Settings:
    """The settings: `given` ones before those of the environment, those before files in `SECRETS_DIRECTORY`.

    Raises:
        SettingsError: one is of the wrong type or out of bounds, a secret cannot be read, or a variable is named like
            a setting and is none: it would do nothing, and nobody would know.
    """
    strangers = [_stranger(name) for name in sorted(os.environ) if _is_stranger(name)]
    if strangers:
        raise SettingsError("\n".join(strangers))
    secrets = SECRETS_DIRECTORY if SECRETS_DIRECTORY.is_dir() else None
    try:
        return Settings(_secrets_dir=secrets, **given)  # type: ignore[arg-type, call-arg]
    except pydantic_settings.SettingsError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reason = f"{error.__cause__.filename}: {error.__cause__.strerror}"
        raise SettingsError(f"cannot read the secret {reason}; the user that serves must be able to") from None
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_context=False):
            name = str(item["loc"][0]) if item["loc"] else "settings"
            value = "" if name in SECRETS else f" (got {item['input']!r})"
            lines.append(f"{ENV_PREFIX}{name.upper()} or --{name.replace('_', '-')}: {item['msg']}{value}")
        raise SettingsError("\n".join(lines)) from None


def _is_stranger(variable: str) -> bool:
    name = variable.upper().removeprefix(ENV_PREFIX)
    return name != variable.upper() and name.lower() not in Settings.model_fields and not _LINK.match(name)


def _stranger(variable: str) -> str:
    name = variable.upper().removeprefix(ENV_PREFIX)
    close = difflib.get_close_matches(name, [known.upper() for known in Settings.model_fields], 1, 0.75)
    return f"{variable}: there is no such setting" + (f"; did you mean {ENV_PREFIX}{close[0]}?" if close else "")
