"""Who asks. It travels in the request's context, so that no endpoint can forget to pass it on."""

from __future__ import annotations

from contextvars import ContextVar

#: Whose key the request came with; "" where no keys are configured. Sessions belong to their owner.
OWNER: ContextVar[str] = ContextVar("owner", default="")

#: Under which id the request is answered and logged.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
