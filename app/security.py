"""Who may come in, and how often: bearer keys, a rate and a number of requests at once for each of their owners."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from app.caller import OWNER
from app.problems import Problem
from app.settings import Settings

#: Shorter keys could be guessed.
LEAST_KEY = 16

_CHANGING_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = re.compile(r"[!-9;-~]{16,512}")  # what can stand in a header, but no colon, which ends a name


class KeysError(ValueError):
    """The keys cannot be used; the message says where, never what."""


class Keys:
    """Keys and whose they are. One owner may have several keys, so that they can be changed without losing sessions.

    Only hashes are kept in memory, under a secret of this process: what a lookup gives away in time is a part of a
    hash that nobody can compute.

    Raises:
        KeysError: a line is no key, a key is there twice, there is none at all, or the file cannot be read.
    """

    def __init__(self, listed: SecretStr | None = None, file: Path | None = None) -> None:
        self._listed = listed
        self._file = file
        self._secret = os.urandom(32)
        self._owners: dict[bytes, tuple[bytes, str]] = {}
        self.reload()

    @property
    def configured(self) -> bool:
        """Whether keys are asked for."""
        return self._listed is not None or self._file is not None

    def __len__(self) -> int:
        return len(self._owners)

    def reload(self) -> None:
        """Read the file again. When this raises `KeysError`, the keys stay as they were."""
        if not self.configured:
            return
        owners: dict[bytes, tuple[bytes, str]] = {}
        for place, entry in self._entries():
            name, _, key = entry.rpartition(":")
            if not _KEY.fullmatch(key) or (name and not _NAME.fullmatch(name)) or entry.startswith(":"):
                raise KeysError(
                    f"{place}: this is neither KEY nor NAME:KEY; a key is {LEAST_KEY} to 512 printable characters "
                    f"without blanks, commas and colons, a name up to 64 of A-Z a-z 0-9 _ . -"
                )
            digest = self._digest(key.encode())
            if digest in owners:
                raise KeysError(f"{place}: this key is there already")
            # The name of a key without one must be the same after a restart: sessions hang on it.
            short = hashlib.blake2b(key.encode(), digest_size=6, person=b"nextword-owner").hexdigest()
            owners[digest] = (digest, name or f"key-{short}")
        if not owners:
            raise KeysError("there is not one key in what is configured; leave the setting out to serve without keys")
        self._owners = owners

    def owner(self, key: bytes) -> str | None:
        """Whose key this is; None: nobody's."""
        digest = self._digest(key)
        known, owner = self._owners.get(digest, (b"", None))
        return owner if hmac.compare_digest(known, digest) else None

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()

    def _entries(self) -> list[tuple[str, str]]:
        entries = []
        if self._listed is not None:
            words = self._listed.get_secret_value().replace(",", " ").split()
            entries += [(f"key {number} of the setting api_keys", word) for number, word in enumerate(words, 1)]
        if self._file is not None:
            try:
                lines = self._file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise KeysError(f"cannot read the keys in {self._file}: {error}") from error
            for number, line in enumerate(lines, 1):
                if line.strip() and not line.lstrip().startswith("#"):
                    entries.append((f"{self._file}, line {number}", line.strip()))
        return entries


class Account:
    """How many requests an owner may make: `rate` a second in the long run, `burst` at once before that counts, and
    `together` being served at the same time. None: as many as they like."""

    __slots__ = ("_at", "_burst", "_rate", "_together", "_tokens", "in_flight")

    def __init__(self, rate: float | None, burst: int, together: int | None, now: float) -> None:
        self.in_flight = 0
        self._rate = rate
        self._burst = float(burst)
        self._together = together
        self._tokens = float(burst)
        self._at = now

    def enter(self, now: float) -> None:
        """Count one request, until `leave`. Raises a 429 `Problem`, and counts nothing, when it is one too many."""
        if self._together is not None and self.in_flight >= self._together:
            detail = f"{self.in_flight} requests of this key are being served, which is the most at once"
            raise Problem(429, "too-many-requests", detail, headers={"retry-after": "1"})
        if self._rate is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens < 1:
                wait = (1 - self._tokens) / self._rate
                detail = f"this key may make {self._rate:g} requests a second; wait {wait:.3g} seconds"
                raise Problem(429, "too-many-requests", detail, headers={"retry-after": str(int(wait) + 1)})
            self._tokens -= 1
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1


class Origins:
    """Whose pages may have a browser change something here: the service's own, and those of the origins listed.

    A browser sends what any page tells it to, also to services that only this machine can reach, and says from where.
    What it says is weighed as Go's `net/http.CrossOriginProtection` does: `Sec-Fetch-Site` if there is one, else
    whether `Origin` names the host that was asked. Clients that are no browsers say neither.
    """

    def __init__(self, listed: str = "") -> None:
        self.names = [name for name in map(str.strip, listed.split(",")) if name]
        self._known = {name.encode() for name in self.names}
        self._all = "*" in self.names

    def refuses(self, method: str, origin: bytes | None, site: bytes | None, host: bytes | None) -> bool:
        if method in _CHANGING_NOTHING or self._all or origin in self._known:
            return False
        if site is not None:
            return site not in (b"same-origin", b"none")
        return origin is not None and (host is None or origin.partition(b"://")[2] != host)


class Guard:
    """Lets those in who show a key, as often as they may. Without keys, all clients count as one owner.

    Open to all are GET and HEAD outside of /v1 (the page, the documents, whether the service is well), and what a
    browser asks before it asks (OPTIONS).
    """

    def __init__(self, app: ASGIApp, keys: Keys, settings: Settings, *, clock: Callable[[], float] = monotonic) -> None:
        self._app = app
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._keyed_metrics = settings.metrics == "keyed"

    @staticmethod
    def needed(keys: Keys, settings: Settings) -> bool:
        """Whether there is anything to guard."""
        return keys.configured or settings.rate_limit is not None or settings.max_requests_per_key is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._open(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        OWNER.set("")
        try:
            owner = self._owner(scope) if self._keys.configured else ""
            OWNER.set(owner)
            account = self._accounts.get(owner)
            if account is None:
                account = self._accounts[owner] = self._account()
            account.enter(self._clock())
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            account.leave()

    def _open(self, method: str, path: str) -> bool:
        if method == "OPTIONS":
            return True
        if path == "/v1" or path.startswith("/v1/") or method not in ("GET", "HEAD"):
            return False
        return not (self._keyed_metrics and path == "/metrics")

    def _owner(self, scope: Scope) -> str:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            detail = "this needs a key: send the header Authorization: Bearer KEY"
            raise Problem(401, "no-key", detail, headers={"www-authenticate": 'Bearer realm="nextword"'})
        scheme, _, key = given[0].partition(b" ")
        owner = self._keys.owner(key.strip()) if len(given) == 1 and scheme.lower() == b"bearer" else None
        if owner is None:
            challenge = 'Bearer realm="nextword", error="invalid_token"'
            raise Problem(401, "wrong-key", "this key is not known here", headers={"www-authenticate": challenge})
        return owner

    def _account(self) -> Account:
        settings = self._settings
        return Account(settings.rate_limit, settings.rate_burst, settings.max_requests_per_key, self._clock())
