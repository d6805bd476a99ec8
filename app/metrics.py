"""`/metrics`: what the parts of the service count anyway, in the words of Prometheus.

Nothing is computed before somebody asks. Names follow vLLM's under the prefix `nextword_`. Labels are routes, statuses
and the like, of which there are few; never the id of a session, nor the name of a key.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.gate import Gate
from app.histogram import PARTS, ROWS, SECONDS, Histogram
from app.scheduler import Status
from app.service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "nextword_"


class ServiceCollector(Collector):
    """Reads `service` and `gate` when a scrape asks. On the event loop."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service = service
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        yield from self._state()
        yield from self._sessions()
        yield from self._requests()
        yield from self._engine()

    def _state(self) -> Iterator[Metric]:
        service, scheduler = self._service, self._service.scheduler
        info = InfoMetricFamily(PREFIX + "model", "The model that is served.")
        info.add_metric([], {"name": service.artifact.name, "id": service.artifact.id})
        yield info
        status = GaugeMetricFamily(PREFIX + "status", "1 for the status that the service is in.", labels=["status"])
        for one in Status:
            status.add_metric([one.value], float(scheduler.status is one))
        yield status
        running = scheduler.engine.running if scheduler.loaded else 0
        yield GaugeMetricFamily(
            PREFIX + "num_requests_running", "Requests that are part of the step being computed.", running
        )
        yield GaugeMetricFamily(
            PREFIX + "num_requests_waiting",
            "Requests in hand that are not part of the step being computed.",
            max(0, scheduler.in_flight - running),
        )
        yield CounterMetricFamily(
            PREFIX + "log_lines_dropped",
            "Lines of the request log that nobody took in time.",
            0 if self._gate.log is None else self._gate.log.dropped,
        )

    def _sessions(self) -> Iterator[Metric]:
        service = self._service
        sessions = GaugeMetricFamily(PREFIX + "sessions", "Live sessions, by where they are kept.", labels=["tier"])
        for tier, count in service.store.tiers().items():
            sessions.add_metric([tier], count)
        yield sessions
        ended = CounterMetricFamily(
            PREFIX + "session_evictions",
            "Sessions that were dropped: for want of room (capacity) or because their time was over (expired).",
            labels=["reason"],
        )
        ended.add_metric(["capacity"], service.store.evictions)
        ended.add_metric(["expired"], service.expiries)
        yield ended
        yield CounterMetricFamily(
            PREFIX + "replays", "Requests that were answered again, with nothing consumed.", service.replays
        )
        adapting, cache_bytes = service.store.caches()
        yield GaugeMetricFamily(PREFIX + "adapting_sessions", "Sessions in memory that adapt.", adapting)
        yield GaugeMetricFamily(PREFIX + "cache_bytes", "What the caches of those take, in bytes.", cache_bytes)
        if service.scheduler.loaded:
            states = service.scheduler.states
            yield GaugeMetricFamily(PREFIX + "states", "Sequence states in memory.", states.in_use)
            yield GaugeMetricFamily(PREFIX + "state_bytes", "What one state takes, in bytes.", states.bytes_each)

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            PREFIX + "http_requests",
            "Requests answered; 499: the client left before.",
            labels=["method", "route", "status"],
        )
        conflicts = 0
        for (method, route, status), count in list(self._gate.requests.items()):
            requests.add_metric([method, route, str(status)], count)
            conflicts += count if status == 409 else 0
        yield requests
        yield CounterMetricFamily(PREFIX + "conflicts", "Requests answered 409.", conflicts)
        latency = HistogramMetricFamily(
            PREFIX + "e2e_request_latency_seconds",
            "From the first byte of a request to the last of its answer, of those that are no errors.",
            labels=["route"],
        )
        for route, histogram in list(self._gate.latencies.items()):
            latency.add_metric([route], histogram.buckets(), histogram.total)
        yield latency

    def _engine(self) -> Iterator[Metric]:
        scheduler = self._service.scheduler
        engine = scheduler.engine if scheduler.loaded else None
        yield _histogram(
            "request_queue_time_seconds",
            "From handing a request's words in to the first step with it.",
            Histogram(SECONDS) if engine is None else engine.queue_seconds,
        )
        yield _histogram(
            "iteration_tokens_total",
            "Words that one step consumed.",
            Histogram(ROWS) if engine is None else engine.step_words,
        )
        yield _histogram(
            "batch_fill_ratio",
            "Sequences in one step, as a part of the most there may be.",
            Histogram(PARTS) if engine is None else engine.step_fill,
        )
        yield _histogram(
            "runtime_step_seconds",
            "How long one step took, projections included.",
            Histogram(SECONDS) if engine is None else engine.step_seconds,
        )


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(PREFIX + name, documentation, buckets=histogram.buckets(), sum_value=histogram.total)


class Metrics:
    """The service's own metrics and those of its process, as a page of text."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(ServiceCollector(service, gate))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self) -> bytes:
        """What `GET /metrics` answers."""
        return generate_latest(self._registry)
