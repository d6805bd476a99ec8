"""OpenTelemetry: a server span for each request, where the variables of that standard ask for one.

They are the standard's own, and read by its packages: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_TRACES_EXPORTER, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_PROPAGATORS, OTEL_BSP_* and
so on. Without them nothing here is imported. Attributes follow the semantic conventions for HTTP
(opentelemetry.io/docs/specs/semconv/http/http-spans); what came with a request is none of them, but for its method and
its id: in place of the path, which may hold the id of a session, stands the route's template.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from starlette.types import Scope

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("nextword")

#: Each of these asks for traces by itself.
ASKING = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_PROTOCOL = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = "opentelemetry_traces_exporter"  # the entry points that packages with exporters name them under
_NANO = 1_000_000_000

#: So much does the last export take at most when the service stops.
CLOSE_SECONDS = 5.0


def asked_for(environment: Mapping[str, str]) -> str | None:
    """The variable that asks for traces; None: nobody does."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return None
    return next((name for name in ASKING if environment.get(name, "").strip()), None)


def configured() -> Spans | None:
    """Where the spans of this process go, by its environment; None if nobody asks for them.

    What is asked for and cannot be had is one line of the log: it holds up no prediction.
    """
    asking = asked_for(os.environ)
    if asking is None:
        return None
    try:
        return Spans(_provider(os.environ))
    except ImportError as error:
        log.warning("no traces: %s is set, but %s; pip install 'nextword[otel]'", asking, error)
    except Exception as error:  # whatever the packages make of the other variables
        log.warning("no traces: %s is set, but they cannot be exported: %s", asking, error)
    return None


def _provider(environment: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {SERVICE_NAME: "nextword", SERVICE_VERSION: metadata.version("nextword")}
    # What a resource is given stands above what the variables say, and the service's own name should not.
    resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in _exporters(environment):
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporters(environment: Mapping[str, str]) -> Iterable[SpanExporter]:
    """Raises ValueError, naming the variable, for one that is not installed."""
    protocol = next((value for name in _PROTOCOL if (value := environment.get(name, "").strip())), "http/protobuf")
    names = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        place = "OTEL_TRACES_EXPORTER"
        if name == "otlp":
            place = f"OTEL_EXPORTER_OTLP_PROTOCOL ({protocol})"
            name = "otlp_proto_" + protocol.partition("/")[0]
        found = next(iter(metadata.entry_points(group=_EXPORTERS, name=name)), None)
        if found is None:
            there = ", ".join(sorted({point.name for point in metadata.entry_points(group=_EXPORTERS)})) or "none"
            raise ValueError(f"{place} names the exporter {name!r}, and there is only: {there}")
        yield found.load()()


class Spans:
    """Spans of requests that are over, handed to the exporters of `provider` by a thread of theirs.

    `put` belongs to the event loop.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._provider = provider
        self._tracer = provider.get_tracer("nextword")
        self._extract = propagate.extract
        # Baggage is for services further on, and there are none.
        fields = propagate.get_global_textmap().fields - {"baggage"}
        self._carried = frozenset(name.lower().encode() for name in fields)
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def put(self, scope: Scope, method: str, route: str, status: int, seconds: float, request_id: str) -> None:
        """A request that took so many `seconds`, and is over. `status` 499: its client left before there was an answer;
        `route` "unmatched": none.

        Its parent is what the client's headers name (`traceparent`), else it begins a trace. Sampling is the
        provider's.
        """
        carrier: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            if name in self._carried:
                carrier.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        end = time.time_ns()
        known = method != "other"
        attributes: dict[str, str | int | list[str]] = {
            "http.request.method": method if known else "_OTHER",
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "http.response.header.x-request-id": [request_id],
        }
        name = method if known else "HTTP"
        if route != "unmatched":
            name = f"{name} {route}"
            attributes["http.route"] = attributes["url.path"] = route
        if scope.get("server"):
            attributes["server.address"], attributes["server.port"] = scope["server"]
        if status == 499:
            attributes["error.type"] = "client_left"
        else:
            attributes["http.response.status_code"] = status
        if status >= 500:
            attributes["error.type"] = str(status)
        span = self._tracer.start_span(
            name,
            context=self._extract(carrier) if carrier else None,
            kind=self._kind,
            attributes=attributes,
            start_time=end - int(seconds * _NANO),
        )
        if status >= 500:
            span.set_status(self._failed)
        span.end(end)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Export what is left, for so long at most: a collector that is away must not hold up the end."""
        closing = threading.Thread(target=self._provider.shutdown, name="nextword-spans", daemon=True)
        closing.start()
        closing.join(seconds)
